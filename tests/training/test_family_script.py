"""The chains of a family's stages, recipes/ and recipes/gpu/train.sh, made small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from stcq.models import checkpoint
from stcq.training.recipe import read_recipe
from stcq.training.train import train

OTHERS = (
    "\nencoder_stem = 4\nencoder_widths = [8, 8, 8]\nencoder_mixers = 1\ndecoder_stem = 4\n"
    "decoder_widths = [8, 8, 8]\ndecoder_mixers = 1"
)
RECIPES = Path(__file__).parent.parent.parent / "recipes" / "gpu"
SMALL = {
    "image_size = 128": "image_size = 32",
    "decoder_stem = 48": "decoder_stem = 4\nencoder_stem = 4\nencoder_widths = [8, 8, 8]\nencoder_mixers = 1",
    "decoder_widths = [96, 160, 256]": "decoder_widths = [8, 8, 8]\ndecoder_mixers = 1",
    "decoder_blocks = [5, 3, 0]": "decoder_blocks = [1, 0, 0]",
    "decoder_fine = 3": "decoder_fine = 1",
    "decoder_blocks = [4, 3, 1]": "decoder_blocks = [1, 0, 0]" + OTHERS,
    "decoder_blocks = [6, 5, 3]": "decoder_blocks = [1, 1, 0]" + OTHERS,
    "weights = [0.5, 0.5]": "workers = 0",
    "weights = [0.6, 0.4]": "workers = 0",
    "metric = 15.0": "metric = 0.0",
    "metric = 30.0": "metric = 0.0",
    "tokens = 64": "tokens = 4",
    "tokens = 128": "tokens = 8",
    "codes = 256": "codes = 4",
    "codes = 16": "codes = 4",
    "groups = 8": "groups = 2",
    "groups = 16": "groups = 2",
    "groups = 256": "groups = 4",
    "memory = 4": "memory = 2",
    "memory_sets = 8": "memory_sets = 3",
    "memory_weights = [1, 2, 1, 3]": "memory_weights = [1, 2]",
    "shuffle = 33000": "shuffle = 6",
    "shuffle = 66000": "shuffle = 6",
    "iterations = 48": "iterations = 2",
    "iterations = 60": "iterations = 2",
    "dim = 5": "dim = 2",
    "batch = 1024": "batch = 16",
    "batch = 256": "batch = 4",
}


def shrunk(text: str) -> str:
    for old, new in SMALL.items():
        text = text.replace(old, new)
    return "\n".join("steps = 4" if line.startswith("steps") else line for line in text.splitlines())


@pytest.fixture
def material(tmp_path: Path, face: np.ndarray) -> tuple[Path, Path]:
    """A folder of pictures and a recogniser of one convolution."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(np.roll(face, 3 * number, number % 2)).resize((40, 40)).save(folder / f"{number}.png")
    kernel = np.random.default_rng(0).normal(size=(4, 3, 28, 28)).astype(np.float32) / 50
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[28, 28], kernel_shape=[28, 28]),
            helper.make_node("Flatten", ["c"], ["y"]),
        ],
        "recognizer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(kernel, "w")],
    )
    path = tmp_path / "recognizer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return folder, path


def test_the_chain_gives_three_codecs(tmp_path: Path, material: tuple[Path, Path]) -> None:
    faces, recognizer = material
    shutil.copy(RECIPES / "train.sh", tmp_path)
    for path in RECIPES.glob("*.toml"):
        (tmp_path / path.name).write_text(shrunk(path.read_text()))
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", str(tmp_path / "train.sh"), str(tmp_path / "out"), str(recognizer), str(faces), str(faces)]
    environment = os.environ | {"PATH": places, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "out").glob("*.log")}
    assert first.returncode == 0, (first.stderr, logs)
    for name, tokens in (("face-33", 4), ("face-65", 4), ("face-129", 8)):
        assert checkpoint.load(tmp_path / "out" / name / "decoder").config.tokens == tokens


def test_a_small_codec_goes_on_from_a_large_one(
    tmp_path: Path, material: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    faces, recognizer = material
    last: Path | None = None
    chain = {"base-128": (0,), "face-129": (0, 2, 3), "face-65": (0, 2, 3), "face-33": (2,)}
    for name, stages in chain.items():
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(shrunk((RECIPES.parent / recipe.name).read_text()))
        names = ["base", "shared", "specific", "decoder"]
        last = train(
            read_recipe(recipe),
            [faces, faces],
            tmp_path / name,
            recognizers=[recognizer, recognizer],
            stages=[names[stage] for stage in stages],
            init=last,
        )
    assert last is not None
    assert checkpoint.load(last).config.payload_bits == 4 * 2 + 2
    said = capsys.readouterr().out
    assert said.count("new tokens from") == 1  # face-65's; those before are eigenfaces
    assert said.count("eigenfaces of") == 1
    codecs = [checkpoint.load(tmp_path / name / "decoder") for name in ("face-129", "face-65")]
    assert [model.config.tokens * model.config.dim for model in codecs] == [16, 8]
    large, small = (set(model.decoder.state_dict()) for model in codecs)
    assert large < small  # it has more numbers, and its decoder fewer blocks


def test_rates() -> None:
    for folder in (RECIPES, RECIPES.parent):
        bits = {path.stem: read_recipe(path).codec.payload_bits for path in folder.glob("face-*.toml")}
        assert {name: -(-count // 8) for name, count in bits.items()} == {"face-33": 33, "face-65": 65, "face-129": 129}
