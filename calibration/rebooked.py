"""A bundle's graphs with other codebooks: the constants are exchanged, all else stays."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from ..export.storage import stored_books
from ..export.weights import WeightStore, attach
from ..runtime.bundle import CODEBOOKS, GOLDEN, Bundle
from ..runtime.codec import Codec
from ..runtime.folders import link_or_copy
from ..runtime.listing import list_files
from ..runtime.manifest import GRAPHS, TABLES, Manifest, Variant
from .writing import write

CONSTANTS = {"books", "books_half", "books_int8", "books_scale", "books_cells", "books_flat", "norms"}
MADE = {"books", "books_float", "books_groups", "books_scaled"}  # what nodes make of them
FLOATS = ("fp32", "fp16")
FORGOTTEN = ("calibration", "measured", "entropy")  # of other books


def write_rebooked(bundle: Bundle, books: NDArray[np.float32], folder: Path, facts: dict[str, Any]) -> tuple[str, ...]:
    """Write a bundle with other codebooks.

    Args:
        bundle: the old one.
        books: (V, T or 1, K, d) float32.
        folder: empty.
        facts: for the manifest's provenance.

    Returns:
        The variants left out: int8 was judged with the old books, and OpenVINO's graphs come from a checkpoint, which
        has other books; and the file of entropy tables, if there is one.
    """
    old = bundle.manifest
    carried = [v for v in old.variants if v.details.get("target") in ("onnx", "tensorrt") and v.precision in FLOATS]
    save_file(stored_books(books), folder / CODEBOOKS)
    (folder / GOLDEN).parent.mkdir()
    link_or_copy(bundle.file(GOLDEN), folder / GOLDEN)
    rewritten = [_rewrite(bundle, variant, books, folder) for variant in carried]
    full = np.broadcast_to(books, (len(books), old.codec.tokens, old.codec.codes, old.codec.dim))
    total = hashlib.sha256()
    for group in full:
        total.update(np.ascontiguousarray(group, "<f4").data)
    section = old.codec._replace(codebooks_sha256=total.hexdigest())
    provenance = {k: v for k, v in old.provenance.items() if k not in FORGOTTEN}
    earlier = {"before": provenance["rebooked"]} if "rebooked" in provenance else {}
    provenance |= {"rebooked": facts | {"from": old.codec.digest.hex()} | earlier}
    variants = tuple(v._replace(details=v.details | {"parity": {}}) for v in rewritten)
    manifest = old._replace(codec=section, variants=variants, files=list_files(folder), provenance=provenance)
    write(manifest, folder)
    _renew_golden(folder, manifest)
    return tuple(v.name for v in old.variants if v not in carried) + ((TABLES,) if TABLES in old.files else ())


def _rewrite(bundle: Bundle, variant: Variant, books: NDArray[np.float32], folder: Path) -> Variant:
    """Write a variant's graphs with other books; the variant with the files that they read now."""
    sets, tokens, codes, dim = books.shape
    flat = np.ascontiguousarray(books.transpose(1, 3, 0, 2)).reshape(tokens, dim, sets * codes)  # (T, d, V*K)
    norms = np.square(flat).sum(1, keepdims=True)  # (T, 1, V*K)
    graphs = {}
    stores: dict[Path, WeightStore] = {}
    compact = books if variant.details["target"] == "onnx" else None
    for name in (graph for graph in GRAPHS if graph in variant.graphs):
        file = variant.graphs[name][0]
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        store = stores.setdefault(path.parent, WeightStore(path.parent))
        proto = onnx.load(bundle.graph(variant, name))
        detach(proto)
        attach(proto, {"books": flat, "norms": norms}, store, f"{name}.bin", compact)
        read = store.share(proto, f"{name}.bin")
        graphs[name] = (file, *(f"{Path(file).parent.as_posix()}/{weights}" for weights in read))
        path.write_bytes(proto.SerializeToString(deterministic=True))
    for file in variant.details.get("files", []):
        link_or_copy(bundle.file(file), folder / file)
    return variant._replace(graphs=graphs)


def detach(proto: onnx.ModelProto) -> None:
    """Turn a graph's codebooks and norms back into inputs of the graph, in place."""
    graph = proto.graph
    nodes = [node for node in graph.node if not set(node.output) & MADE]
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name not in CONSTANTS]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    for name in ("books", "norms"):
        if name in used:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None, None]))


def _renew_golden(folder: Path, manifest: Manifest) -> None:
    """The golden set with the new books' tokens, packets and pictures, by the fp32 graphs; latents stay torch's."""
    variant = next(v.name for v in manifest.variants if v.details["target"] == "onnx" and v.precision == "fp32")
    with Codec(Bundle(folder), variant, policy="nn") as codec:
        golden = {name: np.array(value) for name, value in codec.bundle.golden().items()}
        tokens = codec.run("quantizer", {"latents": golden["latents"]})
        packets = manifest.codec.packets.pack(tokens["group"], tokens["indices"])
        golden |= tokens | {"outputs": codec.run("decoder", tokens)["image"]}
        golden["packets"] = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)
    (folder / GOLDEN).unlink()  # perhaps another name of the old bundle's file
    save_file(golden, folder / GOLDEN)
    write(manifest._replace(files=list_files(folder)), folder)
