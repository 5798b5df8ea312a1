"""A codec whose books are picked by several switches, or by a memory of codes, through everything that knows groups."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stcq.calibration import entropy
from stcq.calibration.gate import Limits
from stcq.calibration.rebook import refit, store
from stcq.errors import BundleError, CheckpointError
from stcq.export.export import export
from stcq.export.request import Request
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.profiling.stages import stages
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.codec_section import CodecSection
from stcq.runtime.inspect import inspect
from stcq.runtime.packet import TAG
from stcq.runtime.verify import verify

BACKBONE = {
    **{"encoder_stem": 8, "encoder_widths": [8, 8, 16], "encoder_blocks": [1, 0, 0], "encoder_mixers": 1},
    **{"decoder_stem": 8, "decoder_widths": [8, 8, 16], "decoder_blocks": [1, 0, 0], "decoder_mixers": 0},
}
WAYS = {
    **{"switches": {"switches": 4}, "memory": {"memory": 4}},
    "more sets": {"memory": 4, "memory_sets": 5, "memory_weights": (1, 2, 1, 3)},
}
LOOSE = Limits(ids_drop=9, psnr_drop=99, token_agreement=0, group_agreement=0)


@pytest.fixture(scope="module", params=["switches", "memory", "more sets"])
def switched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CodecModel, Path]:
    """Sets of books and four switches or tokens of memory: M = 81, in three targets; faces' latents differ."""
    folder = tmp_path_factory.mktemp("switched")
    torch.manual_seed(3)
    ways = WAYS[request.param]
    config = CodecConfig(8, 6, 81, 3, image_size=32, backbone_options=BACKBONE, **ways)
    model = CodecModel(config).train()
    for _ in range(10):  # running statistics of BatchNorm
        model(torch.rand(8, 3, 32, 32))
    latents = model.eval().encode(faces()).detach()  # (80, 8, 3)
    places = torch.randint(80, (config.sets, 8, 6))
    noise = 0.01 * torch.randn(config.sets, 8, 6, 3)
    model.codebooks.weight.data = latents[places, torch.arange(8)[None, :, None]] + noise
    checkpoint.save(model, folder / "checkpoint")
    requests = [Request("onnx"), Request("openvino"), Request("tensorrt", "fp16")]
    return model, export(folder / "checkpoint", folder / "bundle", requests=requests).bundle


def faces() -> torch.Tensor:
    """(80, 3, 32, 32) smooth random pictures in whole grey levels."""
    generator = torch.Generator().manual_seed(5)
    small = torch.rand(80, 3, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(small, (32, 32), mode="bilinear").mul(255).round() / 255


def pixels() -> np.ndarray:
    return (faces() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("variant", ["onnx-fp32", "openvino-fp32"])
@pytest.mark.parametrize("policy", ["nn", "router"])
def test_every_backend_chooses_and_decodes_as_torch(
    switched: tuple[CodecModel, Path], variant: str, policy: str
) -> None:
    model, bundle = switched
    group, indices = model.tokens(faces(), policy)
    with Codec.load(bundle, variant=variant, policy=policy) as codec:
        assert verify(codec).passed
        assert (codec.info.M, max(codec.info.switches, codec.info.memory)) == (81, 4)
        found = codec.tokens_batch(list(pixels()))
        assert np.array_equal(found[0], group.numpy())
        assert np.array_equal(found[1], indices.numpy())
        packets = codec.encode_batch(pixels())
        assert all(len(packet) == 9 + (7 + 8 * 3 + 7) // 8 for packet in packets)
        assert {packet[1 + TAG] >> 1 for packet in packets} == set(group.tolist())
        difference = np.abs(codec.decode_batch(packets).astype(int) - model.reconstruct(group, indices).numpy())
        assert (difference <= 1).mean() >= 0.999
    if policy == "nn":  # the switches do choose apart
        assert len(set(group.tolist())) > 9
        assert all(len(set(column)) > 1 for column in model.codebooks.expand(group, indices)[:, ::2].T.tolist())


def test_what_reads_the_books_takes_the_groups_own(switched: tuple[CodecModel, Path], tmp_path: Path) -> None:
    """The profiler's quantise and lookup stages, which work on the bundle's codebooks."""
    model, bundle = switched
    png = [_png(image, tmp_path / f"{i}.png") for i, image in enumerate(pixels()[:4])]
    group, indices = model.tokens(faces()[:4])
    with Codec.load(bundle) as codec:
        found = {stage.name: stage.run() for stage in stages(codec, png) if stage.name in ("quantise", "lookup")}
    assert np.array_equal(found["quantise"], indices.numpy())
    assert np.allclose(found["lookup"], model.codebooks.lookup(group, indices).detach(), atol=1e-6)


def test_other_books_and_tables(
    switched: tuple[CodecModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = switched
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(pixels()):
        _png(image, tmp_path / "pictures" / f"{number:02}.png")
    moved = refit(bundle, tmp_path / "pictures", tmp_path / "moved", limits=LOOSE)
    assert moved.kept, moved.refused
    walked = bool(Bundle(bundle).manifest.codec.memory)
    assert (moved.scores.group_agreement is None) == walked
    rounded = store(bundle, tmp_path / "pictures", tmp_path / "rounded", "int8", limits=LOOSE)
    assert rounded.kept, rounded.refused
    monkeypatch.setattr(entropy, "LEAST_SAVING", -1.0)
    assert entropy.add_tables(tmp_path / "moved", tmp_path / "pictures").kept
    for path in (tmp_path / "moved", tmp_path / "rounded"):
        with Codec.load(path) as codec:
            assert verify(codec).passed
            assert codec.bundle.codebooks.shape == (model.config.sets, 8, 6, 3)
    with Codec.load(tmp_path / "moved", entropy=True) as coded, Codec.load(tmp_path / "moved") as plain:
        packets = coded.encode_batch(pixels())
        assert sum(map(len, packets)) < sum(map(len, plain.encode_batch(pixels())))
        assert np.array_equal(coded.decode_batch(packets), plain.decode_batch(plain.encode_batch(pixels())))
        (tmp_path / "one.stcq").write_bytes(b"STCQ" + min(packets, key=len))
    assert inspect(str(tmp_path / "one.stcq"), Bundle(tmp_path / "moved"))["valid"]


def test_the_switches_are_part_of_the_model(switched: tuple[CodecModel, Path], small_bundle: Path) -> None:
    text = (switched[1] / "manifest.json").read_text()
    codec = json.loads(text)["codec"]
    ours = {name: codec[name] for name in ("switches", "memory", "memory_sets", "memory_weights") if name in codec}
    name = next(iter(ours))
    assert ours in [{**way, **({"memory_weights": [1, 2, 1, 3]} if len(way) > 1 else {})} for way in WAYS.values()]
    for field, wrong in product(ours, ("", [], [0], [1, True], {}, -1, 0, 2.0, None, 10**9, "1213")):
        with pytest.raises((ValueError, TypeError)):
            CodecSection.from_dict(codec | {field: wrong})
    assert not {*ours} & set(json.loads((small_bundle / "manifest.json").read_text())["codec"])
    for other in (2, 3, 0):
        (switched[1] / "manifest.json").write_text(text.replace(f'"{name}": 4', f'"{name}": {other}'))
        with pytest.raises(BundleError):
            Bundle(switched[1])
    (switched[1] / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"groups": 80, "switches": 4}, "cannot make 80 groups; use 16 or 81"),
        ({"groups": 9, "switches": 3}, "cannot make 9 groups; use 8 or 27"),
        ({"groups": 8, "switches": 3}, "cannot be divided among 3 switches; use a divisor of 8"),
        ({"groups": 81, "switches": 4, "books": "shared"}, "one switch"),
        ({"groups": 1, "switches": 0}, "at least 1"),
        ({"groups": 80, "memory": 4}, "a memory of 4 cannot make 80 groups; use 16 or 81, or another memory"),
        ({"groups": 81, "memory": 4, "codes": 256}, "cannot be divided among 3 classes; use a multiple of 3"),
        ({"groups": 81, "memory": 2, "switches": 2}, "not both"),
        ({"groups": 16, "memory": 2, "codes": 16, "books": "shared"}, "no memory"),
        ({"groups": 1, "memory": -1}, "at least 0"),
        ({"groups": 16, "memory_sets": 4}, "need a memory; give one, or leave them out"),
        ({"groups": 16, "memory": 2, "memory_sets": 17}, "16 groups cannot pick among 17 sets; use 16 at most"),
        ({"groups": 16, "memory": 2, "memory_sets": True}, "memory_sets is True; it must be a whole number"),
        ({"groups": 16, "memory": 2, "memory_weights": (1, 2, 1)}, "weights of at least 1, not 1,2,1; give 2 of them"),
        ({"groups": 16, "memory": 2, "memory_weights": (1, 0)}, "weights of at least 1, not 1,0; give 2 of them"),
        ({"groups": 16, "memory": 2, "memory_weights": (1, 2.0)}, "it must be a list of whole numbers"),
        ({"groups": 16, "memory": 2, "memory_weights": 3}, "it must be a list of whole numbers"),
        ({"groups": 1, "memory": 9}, "a memory of 9 is longer than 8 tokens; use 8 at most"),
    ],
)
def test_sizes_that_do_not_fit(sizes: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        CodecConfig(**{"tokens": 8, **sizes})


def _png(image: np.ndarray, path: Path) -> bytes:
    Image.fromarray(image).save(path)
    return path.read_bytes()
