"""The codec with its embedded bundle on a real photograph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq import Codec
from stcq.errors import BundleError, Corrupt, ImageError, WrongModel
from stcq.evaluation.peers import psnr
from stcq.runtime.search import select
from stcq.runtime.verify import verify


def variations(face: np.ndarray) -> list[np.ndarray]:
    return [np.roll(face, shift, 1) for shift in range(17)]


def test_the_embedded_bundle_fits_its_promise(codec: Codec) -> None:
    info = codec.info
    assert info.payload_bytes == -(-((info.M - 1).bit_length() + info.T * (info.K - 1).bit_length()) // 8)
    assert info.payload_bytes <= 66
    assert sum(path.stat().st_size for path in codec.bundle.path.rglob("*") if path.is_file()) <= 25e6
    assert verify(codec).passed


def test_a_face_survives(codec: Codec, face: np.ndarray) -> None:
    packet = codec.encode(face)
    decoded = codec.decode(packet)
    assert len(packet) == codec.info.payload_bytes + 9
    assert decoded.shape == (128, 128, 3)
    assert decoded.dtype == np.uint8
    assert psnr(Image.fromarray(face), Image.fromarray(decoded)) > 19
    assert codec.encode(Image.fromarray(face)) == packet


def test_compact_packets_are_four_bytes_shorter_and_decode_alike(codec: Codec, face: np.ndarray) -> None:
    with Codec.load(compact=True) as brief:
        packet = brief.encode(face)
    assert len(packet) == codec.info.payload_bytes + 5
    assert np.array_equal(codec.decode(packet), codec.decode(codec.encode(face)))


@pytest.mark.parametrize("count", [1, 3, 8, 17])
def test_batches_give_the_same_packets_as_one_by_one(codec: Codec, face: np.ndarray, count: int) -> None:
    images = variations(face)[:count]
    packets = codec.encode_batch(images)
    assert packets == [codec.encode(image) for image in images]
    decoded = codec.decode_batch(packets)
    assert decoded.shape == (count, 128, 128, 3)
    assert np.abs(decoded[-1].astype(int) - codec.decode(packets[-1])).max() <= 1


def test_empty_batches(codec: Codec) -> None:
    assert codec.encode_batch([]) == []
    assert codec.decode_batch([]).shape == (0, 128, 128, 3)


def test_tokens_are_the_exact_nearest_neighbours(codec: Codec, face: np.ndarray) -> None:
    group, indices = codec.tokens(face)
    switching = codec.bundle.manifest.codec.switching
    found_group, found_indices = select(codec.latents(face)[None], codec.bundle.codebooks, switching)
    assert group == found_group[0]
    assert np.array_equal(indices, found_indices[0])
    assert indices.shape == (codec.info.T,)


def test_decoding_needs_only_the_bundle(codec: Codec, face: np.ndarray, tmp_path: Path) -> None:
    encoder = "import sys, numpy, stcq; sys.stdout.buffer.write(stcq.Codec.load().encode(numpy.load(sys.argv[1])))"
    np.save(tmp_path / "face.npy", face)
    result = subprocess.run([sys.executable, "-c", encoder, tmp_path / "face.npy"], capture_output=True, check=True)
    assert result.stdout == codec.encode(face)
    decoder = "import sys, numpy, stcq; numpy.save(sys.argv[1], stcq.Codec.load().decode(sys.stdin.buffer.read()))"
    subprocess.run([sys.executable, "-c", decoder, tmp_path / "out.npy"], input=result.stdout, check=True)
    assert np.abs(np.load(tmp_path / "out.npy").astype(int) - codec.decode(result.stdout)).max() <= 1


def test_the_router_reads_one_group_and_decodes_anywhere(codec: Codec, face: np.ndarray) -> None:
    with Codec.load(policy="router") as routed:
        packets = routed.encode_batch(variations(face))
        assert routed.info.policy == "router"
        assert packets == [routed.encode(image) for image in variations(face)]
    error = [
        np.abs(codec.decode(p).astype(int) - image).mean() for p, image in zip(packets, variations(face), strict=True)
    ]
    exact = [
        np.abs(codec.decode(p).astype(int) - image).mean()
        for p, image in zip(codec.encode_batch(variations(face)), variations(face), strict=True)
    ]
    assert np.mean(error) < 1.15 * np.mean(exact)


def test_packets_of_another_bundle_are_refused(codec: Codec, face: np.ndarray, small_bundle: Path) -> None:
    with Codec.load(small_bundle) as small:
        with pytest.raises(WrongModel, match="open the bundle"):
            small.decode(codec.encode(face))
        with pytest.raises(WrongModel):
            codec.decode(small.encode(face))


def test_one_bad_packet_stops_a_batch_before_any_work(codec: Codec, face: np.ndarray) -> None:
    good = codec.encode(face)
    with pytest.raises(Corrupt):
        codec.decode_batch([good, good[:-1]])


def test_bad_arguments(face: np.ndarray, codec: Codec) -> None:
    with pytest.raises(BundleError, match=r"no variant 'tpu'; it has: onnx-fp32"):
        Codec.load(variant="tpu")
    with pytest.raises(BundleError, match="policy"):
        Codec.load(policy="best")
    with pytest.raises(BundleError, match="no bundle"):
        Codec.load("/nowhere")
    with pytest.raises(ImageError):
        codec.encode(face.astype(float))


def test_a_closed_codec_opens_again(face: np.ndarray) -> None:
    codec = Codec.load()
    packet = codec.encode(face)
    codec.close()
    assert codec.encode(face) == packet


def test_importing_stcq_imports_no_heavy_library() -> None:
    heavy = "torch onnx onnxruntime openvino tensorrt cv2 safetensors"
    code = f"import stcq, sys, stcq.cli; assert not set('{heavy}'.split()) & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
