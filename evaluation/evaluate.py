"""`stcq evaluate`: everything one wants to know of a codec on a set of faces, and of its classical peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from ..runtime.codec import Codec
from ..runtime.images import Pixels
from .faces import Faces, Images
from .peers import best, encodings, psnr, require
from .quality import Mean, psnrs, spaced
from .recognizer import Recognizer
from .ssim import ms_ssims
from .usage import Usage, code_usage
from .verification import Verification, verify_pairs

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PeerPoint:
    """A classical codec at one byte budget.

    Attributes:
        codec: its name.
        budget: most bytes of a whole file.
        fitting: fraction of pictures that it could write within the budget; the others count with their smallest file.
        size: bytes of the whole file; codestream: without headers.
        psnr, ids: as for the codec.
    """

    codec: str
    budget: int
    fitting: float
    size: Mean
    codestream: Mean
    psnr: Mean
    ids: Mean


@dataclass(frozen=True)
class Evaluation:
    """All figures; means carry their standard error over pictures, accuracies over folds.

    Attributes:
        verification: "uncompressed", "original-decoded" and "decoded-decoded", when there were pairs.
        skipped: pictures that could not be read.
        router_agreement: fraction of pictures whose router group is the exact one (None: one group).
        peers: classical codecs, measured on `peer_faces` of the pictures.
    """

    name: str
    digest: str
    policy: str
    variant: str
    faces: int
    skipped: int
    payload_bytes: int
    packet_bytes: int
    bits_per_pixel: float
    psnr: Mean
    ms_ssim: Mean
    ids: Mean
    usage: Usage
    router_agreement: float | None
    verification: dict[str, Verification]
    peers: tuple[PeerPoint, ...]
    peer_faces: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def evaluate(
    codec: Codec,
    faces: Faces,
    recognizer: Recognizer,
    *,
    peers: Sequence[str] = (),
    budgets: Sequence[int] = (),
    peer_faces: int = 100,
    progress: Progress = lambda step: None,
) -> tuple[Evaluation, Images]:
    """Measure a codec.

    Args:
        peers: names from `stcq.evaluation.peers.FORMATS`.
        budgets: bytes at which peers are measured; empty = the packet's size and 1.5 to 7 times as much.
        peer_faces: most pictures for the peers, evenly spaced.

    Returns:
        The figures, and the decoded pictures (N, S, S, 3).

    Raises:
        ImageError: no pictures.
        BackendMissing: this Pillow lacks a peer.
    """
    require(list(peers))
    if not len(faces.images):
        raise ImageError("there are no pictures to evaluate on")
    info = codec.info
    progress("encode and decode")
    group, indices = codec.tokens_batch(list(faces.images))
    packets = codec.bundle.manifest.codec.packets
    decoded = codec.decode_batch(packets.pack(group, indices))
    progress("recognise")
    plain = np.stack([recognizer.embed(image) for image in faces.images])
    ids = [float(a @ recognizer.embed(image)) for a, image in zip(plain, decoded, strict=True)]
    verification = _verify(faces, decoded, recognizer) if faces.pairs else {}
    size = packets.packet_bytes
    points = []
    picks = spaced(len(faces.images), peer_faces)
    for name in peers:
        progress(name)
        points += measure_peer(name, faces.images[picks], plain[picks], recognizer, budgets or default_budgets(size))
    figures = Evaluation(
        name=info.name,
        digest=info.digest,
        policy=info.policy,
        variant=info.variant,
        faces=len(faces.images),
        skipped=faces.skipped,
        payload_bytes=info.payload_bytes,
        packet_bytes=size,
        bits_per_pixel=packets.payload_bits / info.image_size**2,
        psnr=Mean.of(psnrs(faces.images, decoded)),
        ms_ssim=Mean.of(ms_ssims(faces.images, decoded)),
        ids=Mean.of(ids),
        usage=code_usage(group, indices, info.K),
        router_agreement=_router_agreement(codec, faces.images, group),
        verification=verification,
        peers=tuple(points),
        peer_faces=len(picks) if peers else 0,
    )
    return figures, decoded


def default_budgets(size: int) -> tuple[int, ...]:
    """From the packet's size to seven times as much."""
    return tuple(round(size * factor) for factor in (1, 1.5, 2, 3, 4, 5, 7))


def measure_peer(
    name: str, images: Images, plain: NDArray[np.float64], recognizer: Recognizer, budgets: Sequence[int]
) -> list[PeerPoint]:
    """A classical codec at several budgets, each picture with the scale and quality of its best PSNR."""
    rows: dict[int, list[tuple[float, ...]]] = {budget: [] for budget in budgets}
    for pixels, embedding in zip(images, plain, strict=True):
        picture = Image.fromarray(pixels)
        found = encodings(name, picture)
        for budget in budgets:
            one, image, fits = best(found, budget, lambda image, picture=picture: psnr(picture, image))  # type: ignore[misc]
            ids = float(embedding @ recognizer.embed(np.asarray(image)))
            rows[budget].append((fits, len(one.content), one.codestream, psnr(picture, image), ids))
    points = []
    for budget, figures in rows.items():
        fits, *columns = np.array(figures, float).T
        points.append(PeerPoint(name, budget, float(fits.mean()), *(Mean.of(column) for column in columns)))
    return points


def _verify(faces: Faces, decoded: Pixels, recognizer: Recognizer) -> dict[str, Verification]:
    """Accuracy with originals, with originals against decoded pictures, and with decoded pictures alone."""
    before = np.stack([recognizer.embed(image, flip=True) for image in faces.images])
    after = np.stack([recognizer.embed(image, flip=True) for image in decoded])
    return {
        "uncompressed": verify_pairs(before, before, faces.pairs),
        "original-decoded": verify_pairs(before, after, faces.pairs),
        "decoded-decoded": verify_pairs(after, after, faces.pairs),
    }


def _router_agreement(codec: Codec, images: Images, group: NDArray[np.int32]) -> float | None:
    """How often the other policy chooses the same group."""
    if codec.info.M == 1:
        return None
    other = Codec(codec.bundle, codec.variant.name, "router" if codec.policy == "nn" else "nn")
    return float((other.tokens_batch(list(images))[0] == group).mean())
