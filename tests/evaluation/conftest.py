"""Fixtures: a recogniser of colours and people it tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Average colours of a 4 x 4 grid: tells differently tinted people apart."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["a"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 48])],
        [numpy_helper.from_array(np.zeros(1, np.float32), "unused")],
    )
    path = tmp_path_factory.mktemp("recognizer") / "r.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, face: np.ndarray) -> Path:
    """People of two or three pictures: one face in 24 tints."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in range(24):
        (folder / f"p{person}").mkdir()
        tint = rng.uniform(0.3, 1, 3)
        for number in range(2 + person % 2):
            picture = (np.roll(face, number, 0) * tint).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"p{person}" / f"p{person}_{number:04}.png")
    return folder
