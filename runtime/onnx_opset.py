"""Which ONNX opset this machine's ONNX Runtime opens, found by trying: its version does not say."""

from __future__ import annotations

from typing import Any


def highest_opset(ort: Any, limit: int = 40) -> int:
    """The highest opset of which ONNX Runtime opens a graph, by trying; 0 = none."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    highest = 0
    for opset in range(13, limit):
        try:
            ort.InferenceSession(identity_model(opset), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's own types share no base class
            break
        highest = opset
    return highest


def identity_model(opset: int) -> bytes:
    """The smallest ONNX model, y = x, written by hand: the onnx package is not there on a device."""

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):  # a varint below 128
            return bytes([number << 3, content])
        return bytes([number << 3 | 2, len(content)]) + content

    def value(
        name: bytes,
    ) -> bytes:  # ValueInfoProto: name, type { tensor_type { elem_type FLOAT, shape { dim { 1 } } } }
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, field(1, field(1, 1)))))

    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, opset))
