"""`stcq evaluate`: everything one wants to know of a codec on a set of faces, and of its classical peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..runtime.codec import Codec
from ..runtime.images import Pixels
from .faces import Faces, Images
from .means import Mean, without_nan
from .peer_points import Crossing, PeerCurve, PeerPoint, default_budgets
from .peers import require
from .quality import psnrs, spaced
from .recognizer import Recognizer
from .ssim import ms_ssims
from .usage import Usage, code_usage
from .verification import Verification, verify_pairs

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """All figures; means carry their standard error over people, or pictures of unknown ones, accuracies over folds.

    Attributes:
        verification: "uncompressed", "original-decoded" and "decoded-decoded", when there were pairs.
        skipped: pictures that could not be read.
        router_agreement: fraction of pictures whose router group is the exact one (None: one group).
        peers: classical codecs, measured on `peer_faces` of the pictures.
        peer_ids: this codec's IDS on those pictures (None: no peers).
        equal: each classical codec at the least budget with that IDS, if a budget has it.
    """

    name: str
    digest: str
    policy: str
    variant: str
    faces: int
    skipped: int
    payload_bytes: int
    packet_bytes: int
    compact_bytes: int
    bits_per_pixel: float
    psnr: Mean
    ms_ssim: Mean
    ids: Mean
    usage: Usage
    router_agreement: float | None
    verification: dict[str, Verification]
    peers: tuple[PeerPoint, ...]
    peer_faces: int
    peer_ids: Mean | None
    equal: tuple[Crossing, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        found: dict[str, Any] = without_nan(asdict(self))
        return found


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
    ids = np.array([float(a @ recognizer.embed(image)) for a, image in zip(plain, decoded, strict=True)])
    verification = _verify(faces, decoded, recognizer) if faces.pairs else {}
    size = packets.packet_bytes
    budgets = budgets or default_budgets(size)
    picks = spaced(len(faces.images), peer_faces)
    people = faces.people
    those = None if people is None else people[picks]
    peer_ids = Mean.of(ids[picks], those)
    points: list[PeerPoint] = []
    equal: list[Crossing | None] = []
    for name in peers:
        progress(name)
        curve = PeerCurve(name, faces.images[picks], plain[picks], recognizer, those)
        points += [curve.at(budget) for budget in budgets]
        equal.append(curve.reaching(ids[picks], budgets))
    figures = Evaluation(
        name=info.name,
        digest=info.digest,
        policy=info.policy,
        variant=info.variant,
        faces=len(faces.images),
        skipped=faces.skipped,
        payload_bytes=info.payload_bytes,
        packet_bytes=size,
        compact_bytes=packets.compact_bytes,
        bits_per_pixel=packets.payload_bits / info.image_size**2,
        psnr=Mean.of(psnrs(faces.images, decoded), people),
        ms_ssim=Mean.of(ms_ssims(faces.images, decoded), people),
        ids=Mean.of(ids, people),
        usage=code_usage(group, indices, info.K),
        router_agreement=_router_agreement(codec, faces.images, group),
        verification=verification,
        peers=tuple(points),
        peer_faces=len(picks) if peers else 0,
        peer_ids=peer_ids if peers else None,
        equal=tuple(point for point in equal if point),
    )
    return figures, decoded


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
