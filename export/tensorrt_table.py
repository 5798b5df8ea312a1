"""What TensorRT's ONNX parsers read, so that a graph can be checked on a machine without TensorRT.

Sources: the support matrix of github.com/onnx/onnx-tensorrt, docs/operators.md, as it stood for TensorRT 8.5 (commit
6d0ab7be) and for 10.15, and docs/Changelog.md for what 8.6 and 10.0 added; the 8.5 names were compared with the
names of importers inside libnvonnxparser.so of the 8.5.3.1 package. What is not in the table counts as not read.
"""

from __future__ import annotations

FLOATS = "FP32 FP16"
VERSIONS = ("8.5", "8.6", "10")
HIGHEST_OPSET = {"8.5": 17, "8.6": 17, "10": 20}  # of the oldest release of each: 8.5.1, 8.6.1, 10.0

# types -> operators, of TensorRT 8.5
_TABLE_8_5 = {
    FLOATS: """
        Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Ceil Celu Cos Cosh CumSum Dropout Einsum
        Erf Exp Floor GridSample GRU ImageScaler InstanceNormalization Log LogSoftmax LpNormalization LRN LSTM
        MatMul MeanVarianceNormalization NonMaxSuppression NonZero Pow QuantizeLinear RandomNormal RandomNormalLike
        RandomUniform RandomUniformLike Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize ReverseSequence RNN RoiAlign Scan Sin Sinh
        Softmax Softsign Sqrt Tan TopK Upsample
    """,
    f"{FLOATS} INT8": """
        Clip Conv ConvTranspose Elu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish
        LeakyRelu LpPool MaxPool ParametricSoftplus PRelu Relu Round ScaledTanh Selu Sigmoid Softplus Tanh
        ThresholdedRelu
    """,
    f"{FLOATS} INT32": """
        Abs Add DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul Neg Range
        Shrink SpaceToDepth Sub Sum
    """,
    f"{FLOATS} INT32 INT8": "AveragePool Pad Scatter ScatterElements ScatterND Sign",
    f"{FLOATS} INT32 BOOL": "Expand EyeLike Flatten If Loop OneHot Split Tile Where",
    f"{FLOATS} INT32 INT8 BOOL": """
        Cast Concat Constant Gather GatherElements GatherND Identity Reshape Shape Size Slice Squeeze Transpose
        Trilu Unsqueeze
    """,
    "FP32": "ConstantOfShape",
    "INT8": "DequantizeLinear",
    "BOOL": "And Not Or Xor",
}

_ADDED = {
    "8.6": {FLOATS: "GroupNormalization IsInf LayerNormalization", f"{FLOATS} INT32": "ArgMax ArgMin TopK"},
    "10": {
        FLOATS: "BlackmanWindow DeformConv HammingWindow HannWindow Hardmax Mish STFT",
        f"{FLOATS} INT32 INT64": """
            Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean
            Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
            ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign
            SpaceToDepth Sub Sum TopK
        """,
        f"{FLOATS} INT32 INT64 BOOL": """
            Cast CastLike Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND
            Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu
            Unsqueeze Where
        """,
    },
}


def operators(version: str) -> dict[str, set[str]]:
    """Operator -> types that a version's parser reads it with."""
    table: dict[str, set[str]] = {}
    layers = [_TABLE_8_5, *(_ADDED[v] for v in VERSIONS[1 : VERSIONS.index(version) + 1])]
    for layer in layers:
        for types, names in layer.items():
            for name in names.split():
                table.setdefault(name, set()).update(types.split())
    return table
