"""A bundle in the making: variants written, audited and proven in a folder that takes its place afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..errors import BundleError
from ..models.codec import CodecModel
from ..runtime.bundle import CODEBOOKS, GOLDEN, Bundle
from ..runtime.folders import link_or_copy
from ..runtime.images import PREPROCESS
from ..runtime.listing import list_files
from ..runtime.manifest import TABLES, Manifest, Variant
from .audit import audit
from .existing import check_model, staying
from .golden import golden_images, reference
from .proof import Proof, between, prove
from .report import Exported
from .request import Built, Request
from .section import hash_tensors, section_of
from .storage import stored_books
from .targets import TARGETS

Progress = Callable[[str], None]
CALIBRATED = ("calibration", "measured")  # what `stcq calibrate` leaves in the provenance


class Draft:
    """A bundle in the making: `write` fills a folder with it."""

    def __init__(
        self,
        model: CodecModel,
        requests: Sequence[Request],
        targets: dict[str, Any],
        images: NDArray[np.uint8] | None,
        progress: Progress,
    ) -> None:
        self.model, self.requests, self.targets, self.progress = model, requests, targets, progress
        self.section = section_of(model)
        self.encoder_sha256 = hash_tensors(model.encoder.state_dict() | model.router.state_dict())
        self.images = images if images is not None and len(images) else None
        self.golden = golden_images(self.section.image_size)
        self.rounding: dict[str, Any] | None = None

    def all_images(self) -> NDArray[np.uint8]:
        """The golden pictures and the caller's, (N, S, S, 3)."""
        return self.golden if self.images is None else np.concatenate([self.golden, self.images])

    def write(
        self,
        folder: Path,
        out: Path,
        name: str | None,
        policy: str | None,
        provenance: dict[str, Any],
        replace: bool = False,
    ) -> Exported:
        """Fill `folder` with a whole, verified bundle that will replace `out`; raises as `export` does."""
        if not replace:
            check_model(out, self.section)
        old = self._open_old(out)
        fits = old is not None and self._same_model(old.manifest)
        new_names = {request.name for request in self.requests}
        kept = staying(old.manifest, new_names) if old and fits else []
        there = new_names | {variant.name for variant in kept}
        dropped = [v.name for v in old.manifest.variants if v.name not in there] if old else []
        policy = policy or (old.manifest.policy if old and fits else "nn")
        self.progress("codebooks")
        save_file(stored_books(self.model.codebooks.weight.detach().numpy()), folder / CODEBOOKS)
        self.progress("golden set")
        references = {"golden": reference(self.model, self.section, self.golden)}
        if self.images is not None:
            references["images"] = reference(self.model, self.section, self.images)
        (folder / GOLDEN).parent.mkdir()
        save_file(references["golden"], folder / GOLDEN)
        if old:
            for file in {file for variant in kept for file in variant.files}:
                link_or_copy(old.file(file), folder / file)
        variants = [self._build(request, folder, policy) for request in self.requests]
        facts = provenance | {"encoder_sha256": self.encoder_sha256}
        if old:
            facts |= self._carried(old, folder, kept, dropped)
        manifest = Manifest(
            name or (old.manifest.name if old and fits else out.resolve().name),
            self.section,
            tuple(sorted([*kept, *variants], key=lambda v: _order(v.name))),
            list_files(folder),
            policy,
            dict(PREPROCESS),
            facts,
        )
        (folder / "manifest.json").write_text(manifest.to_json())
        proofs: dict[str, Proof] = {}
        for i, variant in enumerate(variants):
            self.progress(f"parity of {variant.name}")
            proof = proofs[variant.name] = prove(folder, variant, references)
            variants[i] = variant._replace(details=variant.details | proof.to_dict())
        done = {variant.name: variant for variant in variants}
        manifest = manifest._replace(variants=tuple(done.get(v.name, v) for v in manifest.variants))
        (folder / "manifest.json").write_text(manifest.to_json())
        bundle = Bundle(folder)
        return Exported(
            bundle=out,
            size=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            digest=self.section.digest.hex(),
            variants=tuple((variant, bundle.size_of(variant)) for variant in variants),
            proofs=proofs,
            between=between(folder, list(manifest.variants), references["golden"]),
            kept=tuple(variant.name for variant in kept),
            dropped=tuple(dropped),
            rounding=self.rounding,
        )

    def _carried(self, old: Bundle, folder: Path, kept: Sequence[Variant], dropped: list[str]) -> dict[str, Any]:
        """Take over the old bundle's entropy tables, and what the provenance says of them and of kept variants."""
        facts: dict[str, Any] = {}
        said = old.manifest.provenance
        if TABLES in old.manifest.files:
            if old.manifest.codec == self.section:  # what they code is tokens, whatever encoder found them
                link_or_copy(old.file(TABLES), folder / TABLES)
                facts |= {key: value for key, value in said.items() if key == "entropy"}
            else:
                dropped.append(TABLES)
        if any("calibration" in variant.details for variant in kept):
            facts |= {name: said[name] for name in CALIBRATED if name in said}
        return facts

    def _build(self, request: Request, folder: Path, policy: str) -> Variant:
        """Write one variant and audit it."""
        self.progress(request.name)
        target = self.targets[request.target]
        built: Built = target.build(self.model, request, folder)
        facts = audit(request, built, target.choose_opset(request), policy)
        return Variant(request.name, built.backend, built.facts["precision"], built.graphs, built.extra | facts)

    def _open_old(self, out: Path) -> Bundle | None:
        """The bundle that is there already, if it is whole; a damaged one is replaced without its variants."""
        if not (out / "manifest.json").is_file():
            return None
        try:
            old = Bundle(out)
            old.verify_files()
        except BundleError as error:
            self.progress(f"the old bundle is not kept: {error}")
            return None
        return old

    def _same_model(self, old: Manifest) -> bool:
        """Whether the old bundle's variants compute this model, its encoder and router included."""
        return old.codec == self.section and old.provenance.get("encoder_sha256") == self.encoder_sha256


def _order(variant: str) -> tuple[int, int, str]:
    """Targets in the order of their table, fp32 before fp16: "auto" takes the first that is installed."""
    target, _, precision = variant.partition("-")
    names = list(TARGETS)
    return names.index(target) if target in names else len(names), precision.startswith("fp16"), variant
