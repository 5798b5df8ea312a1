"""`stcq import`: official weights of a published tokenizer become a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import CheckpointError
from . import checkpoint
from .backbones import PRETRAINED
from .backbones.base import Pretrained
from .codec import CodecModel, backbone_class
from .config import CodecConfig
from .weights import read_weights

SHOWN = 6  # names of tensors in a message


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        checkpoint: the folder.
        config: the codec: one group, one book shared by all tokens.
        tensors: how many the weight file gave.
        ignored: names of those that only training needed.
    """

    checkpoint: Path
    config: CodecConfig
    tensors: int
    ignored: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        facts = {"checkpoint": str(self.checkpoint), "tensors": self.tensors, "ignored": list(self.ignored)}
        return facts | {"codec": self.config.to_dict()}


def import_weights(
    backbone: str,
    weights: Path,
    out: Path,
    *,
    trust_pickle: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Imported:
    """Load official weights strictly and save them as a codec whose one group has the official codebook, shared.

    Args:
        backbone: a name of `stcq.models.backbones.PRETRAINED` (hyphens do as well), or "module:Class".
        weights: .safetensors, .bin, .ckpt, .pth or .pt.
        out: the checkpoint's folder.
        trust_pickle: read pickles, which .bin, .ckpt, .pth and .pt are.
        settings: fields of `CodecConfig` or options of the backbone that the weights do not tell, or tell wrongly.

    Raises:
        CheckpointError: unknown backbone or setting; an unreadable file; tensors missing, unexpected, misshapen or not
            finite, by name; `out` holds something else.
    """
    name, kind = _pretrained(backbone)
    if out.exists() and not (out / "config.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is no checkpoint; give another -o or remove it")
    found = read_weights(weights, kind.CONTAINERS, trust_pickle)
    ignored = tuple(sorted(key for key in found if key.startswith(kind.IGNORED))) if kind.IGNORED else ()
    tensors = {key: tensor for key, tensor in found.items() if key not in set(ignored)}
    config = configure(name, kind, tensors, settings or {})
    tokenizer = kind(config.image_size, config.tokens, config.dim, **config.backbone_options)
    compare(tensors, tokenizer.state_dict(), weights)
    tokenizer.load_state_dict(tensors, strict=True)
    model = CodecModel(config, tokenizer)
    model.set_books(model.config, tokenizer.codebook()[None, None])
    provenance = {"import": {"backbone": name, "weights": weights.name, "sha256": checkpoint.sha256(weights)}}
    try:
        checkpoint.save(model, out, provenance)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}") from error
    return Imported(out, model.config, len(tensors), ignored)


def _pretrained(name: str) -> tuple[str, type[Pretrained]]:
    """The full name and class of a backbone that has weights to import."""
    if name.replace("-", "_") in PRETRAINED:
        name = name.replace("-", "_")
    kind = backbone_class(name)
    if not isinstance(kind, type) or not issubclass(kind, Pretrained):
        raise CheckpointError(
            f"backbone {name!r} has no weights to import; use one of {', '.join(sorted(PRETRAINED))}, "
            "or a subclass of stcq.models.backbones.base.Pretrained as module:Class"
        )
    return name, kind


def configure(
    name: str, kind: type[Pretrained], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> CodecConfig:
    """The codec of a tokenizer's weights: the released sizes, what the shapes tell, then the caller's settings."""
    fixed = {"groups": 1, "books": "shared", "backbone": name}
    known = {field.name for field in fields(CodecConfig)} - {*fixed, "backbone_options"}
    size = settings.get("image_size", kind.FIELDS.get("image_size", 256))
    if not isinstance(size, int):
        raise CheckpointError(f"setting image_size is {size!r}; it must be a whole number")
    try:
        told = kind.sizes({key: tuple(tensor.shape) for key, tensor in tensors.items()}, size)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError):
        told = {}  # the comparison by name says what is wrong
    options = dict(told.pop("backbone_options", {}))
    options |= {key: value for key, value in settings.items() if key not in known}
    values = {**kind.FIELDS, **told, **{key: settings[key] for key in known & set(settings)}}
    return CodecConfig(**cast(dict[str, Any], fixed | values | {"backbone_options": options}))


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not exactly the backbone's.

    Raises:
        CheckpointError: tensors missing, unexpected or misshapen; the message names them.
    """
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": shapes,
    }
    parts = [f"{len(names)} {what}: {some(names)}" for what, names in problems.items() if names]
    if parts:
        raise CheckpointError(f"{path} does not fit this backbone; {'; '.join(parts)}")
    checkpoint.check_tensors(dict(found), dict(expected), path)


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
