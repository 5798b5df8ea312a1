"""Bundles that were damaged, cut, or made to do harm are refused in one line; whole ones open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import BundleError
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.codec_section import CodecSection
from stcq.runtime.safetensors import load_file
from stcq.runtime.verify import verify


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(small_bundle, tmp_path / "bundle")


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_bundle_verifies(bundle: Path) -> None:
    with Codec.load(bundle) as codec:
        report = verify(codec)
    assert report.passed
    assert report.token_agreement == report.group_agreement == 1
    assert report.packets_equal


def test_one_changed_byte_in_any_file_is_found(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert len(files) == len(Bundle(bundle).manifest.files)
    for path in files:
        content = bytearray(path.read_bytes())
        place = len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleError, match=rf"{path.name} is damaged"):
            Bundle(bundle).verify_files()
        content[place] ^= 1
        path.write_bytes(content)
    Bundle(bundle).verify_files()


def test_changed_weights_are_found_before_use(bundle: Path, face: np.ndarray) -> None:
    weights = bundle / "onnx-fp32" / "encoder.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder.bin is damaged"):
        Codec.load(bundle).encode(face)


def test_every_changed_byte_of_the_manifest_is_harmless_or_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    text = path.read_bytes()
    digest = Bundle(bundle).manifest.codec.digest
    for place in range(0, len(text), 7):
        path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        try:
            opened = Bundle(bundle)
            opened.verify_files()
        except BundleError:
            continue
        assert opened.manifest.codec.digest == digest


def test_a_missing_file(bundle: Path) -> None:
    (bundle / "onnx-fp32" / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx' is missing"):
        Bundle(bundle)


def test_a_truncated_file(bundle: Path) -> None:
    path = bundle / "codebooks.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"codebooks.safetensors has \d+ bytes"):
        Bundle(bundle)


def test_an_unlisted_file(bundle: Path) -> None:
    (bundle / "extra.so").write_bytes(b"\x7fELF")
    with pytest.raises(BundleError, match=r"does not list 'extra.so'"):
        Bundle(bundle)


def test_links_are_refused(bundle: Path) -> None:
    path = bundle / "codebooks.safetensors"
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match="link"):
        Bundle(bundle)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "c:x", "./a", "a//b", "manifest.json"]
)
def test_unsafe_paths_are_refused(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    edit(bundle, files=files | {name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="unsafe path"):
        Bundle(bundle)


def test_a_changed_codec_section_does_not_fit_its_digest(bundle: Path) -> None:
    codec = json.loads((bundle / "manifest.json").read_text())["codec"]
    edit(bundle, codec=codec | {"K": 4})
    with pytest.raises(BundleError, match="digest does not fit"):
        Bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "upgrade stcq"),
        ({"policy": "best"}, "policy"),
        ({"variants": 3}, "damaged"),
        ({"files": []}, "damaged"),
        ({"codec": {"T": 0}}, "damaged"),
        ({"files": {"a": {"size": float("inf"), "sha256": ""}}}, "damaged"),
        ({"provenance": None}, "damaged"),
        ({"preprocess": []}, "damaged"),
        ({"variants": [{"name": "a", "backend": "b", "precision": "c", "graphs": {}, "calibration": "x"}]}, "damaged"),
    ],
)
def test_unusable_manifests(bundle: Path, changes: dict, message: str) -> None:
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "format": 1}', "\xff"])
def test_manifests_that_are_none(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match="damaged"):
        Bundle(bundle)


def test_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match=r"manifest.json is missing"):
            Bundle(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="zip"):
        Bundle(tmp_path / "file")


def test_folders_without_end_are_refused(bundle: Path) -> None:
    (bundle / "/".join(["d"] * 20)).mkdir(parents=True)
    with pytest.raises(BundleError, match="too deep"):
        Bundle(bundle)


def test_a_file_that_goes_while_the_bundle_is_open(bundle: Path, face: np.ndarray) -> None:
    with Codec.load(bundle) as codec:
        (codec.bundle.path / codec.variant.graphs["encoder"][0]).unlink()
        with pytest.raises(BundleError, match="cannot be read"):
            codec.run("encoder", {"image": face[None]})


def test_a_golden_set_of_another_model(bundle: Path) -> None:
    opened = Bundle(bundle)
    section = opened.manifest.codec
    for other in (section._replace(tokens=section.tokens + 1), section._replace(dim=section.dim + 1)):
        opened.manifest = opened.manifest._replace(codec=other)
        with pytest.raises(BundleError, match="does not fit"):
            opened.golden()


def test_a_model_whose_packets_no_reader_takes_is_refused(bundle: Path) -> None:
    section = Bundle(bundle).manifest.codec
    with pytest.raises(ValueError, match="the limit is 4096"):
        CodecSection.from_dict(section._replace(tokens=40960, codes=256).to_dict())


def test_safetensors_refuses_what_does_not_add_up(bundle: Path) -> None:
    path = bundle / "codebooks.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    wrong = [
        {"a": header["codebooks"] | {"shape": [1]}},
        {"a": header["codebooks"] | {"data_offsets": [4, header["codebooks"]["data_offsets"][1]]}},
        {"a": header["codebooks"] | {"dtype": "F99"}},
        {"a": header["codebooks"], "b": header["codebooks"]},
        [],
        {},
    ]
    for document in wrong:
        text = json.dumps(document).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises(BundleError, match="damaged"):
            load_file(path)
    for broken in (b"", content[:7], (1 << 40).to_bytes(8, "little") + content[8:]):
        path.write_bytes(broken)
        with pytest.raises(BundleError, match="safetensors"):
            load_file(path)
