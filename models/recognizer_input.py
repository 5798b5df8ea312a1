"""What pictures a face recogniser in an ONNX file wants.

`FILE:arcface` stands for a file whose network wants RGB as (x - 127.5) / 127.5, which most of ArcFace's kind do, and
`FILE:imagenet` for ImageNet's mean and deviation. A graph that normalises by itself is known by its first node.
"""

from __future__ import annotations

from pathlib import Path

import onnx

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean, std of RGB in [0, 1]

BYTES: Normalization = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # makes 0 to 255 of [0, 1]
IMAGENET: Normalization = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONVENTIONS = {"arcface": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "imagenet": IMAGENET}


def load_model(path: Path) -> tuple[onnx.ModelProto, Normalization | None]:
    """The model of FILE or FILE:arcface, and the normalisation that its graph or else its name says.

    Raises:
        ValueError: the file cannot be read or is no ONNX model with an input and an output.
    """
    name, _, kind = path.name.rpartition(":")
    named = bool(name) and kind in CONVENTIONS and not path.exists()
    try:
        model = onnx.load(path.with_name(name) if named else path)
    except Exception as error:  # onnx raises protobuf's own types
        raise ValueError(str(error) or type(error).__name__) from error
    if not model.graph.input or not model.graph.output:
        raise ValueError("it has no input or no output, so it is empty or cut; give the whole file")
    return model, BYTES if normalizes(model.graph) else CONVENTIONS[kind] if named else None


def normalizes(graph: onnx.GraphProto) -> bool:
    """Whether a graph begins by taking a constant of 2 or more from its input: it wants RGB of 0 to 255.

    So do recognisers exported from MXNet, InsightFace's of the ONNX model zoo and OpenCV's SFace: (x - 127.5) / 128.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    given = [value.name for value in graph.input if value.name not in constants]
    first = [node for node in graph.node if given and given[0] in node.input]
    if len(first) != 1 or first[0].op_type != "Sub" or first[0].input[0] != given[0]:
        return False
    taken = constants.get(first[0].input[1])
    return taken is not None and bool((onnx.numpy_helper.to_array(taken) >= 2).all())
