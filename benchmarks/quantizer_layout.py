"""The exact quantizer as an ONNX graph, codebooks as (T, d, V * K) and half distances, against other ways to write it.

usage: python benchmarks/quantizer_layout.py [--groups 16 --tokens 64 --codes 256 --dim 8]
       python benchmarks/quantizer_layout.py --groups 256 --dim 5 --memory 4 --memory-sets 8 --memory-weights 1,2,1,3
"""

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
import torch
from stcq.export.graphs import QuantizerGraph, columns, norms_of
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.runtime.options import memory_options
from torch import Tensor, nn


class Shipped(nn.Module):
    """The graph that bundles have; `factor` 2 = with whole distances |c|^2 - 2 z.c."""

    def __init__(self, model: CodecModel, factor: float = 1) -> None:
        super().__init__()
        books = model.codebooks.full().detach()
        self.quantizer, self.factor = QuantizerGraph(model), factor
        self.books = nn.Parameter(columns(books), requires_grad=False)
        self.norms = nn.Parameter(factor * norms_of(books), requires_grad=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self.quantizer(latents if self.factor == 1 else self.factor * latents, self.books, self.norms)


class Natural(nn.Module):
    """The same selection with the codebooks as they are stored in a checkpoint."""

    def __init__(self, books: Tensor) -> None:
        super().__init__()
        self.books = nn.Parameter(books, requires_grad=False)
        self.norms = nn.Parameter(books.square().sum(-1, keepdim=True), requires_grad=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        table = self.norms - 2 * torch.matmul(self.books, latents.permute(1, 2, 0))  # (M, T, K, B)
        group = table.amin(2).sum(1).argmin(0)  # (B,)
        place = group[None, None, None].expand(1, table.shape[1], table.shape[2], -1)
        chosen = torch.gather(table, 0, place)[0]  # (T, K, B)
        return group.to(torch.int32), chosen.argmin(1).transpose(0, 1).to(torch.int32)


def session(module: nn.Module, latents: Tensor, path: Path) -> ort.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"latents": {0: "batch"}}
        torch.onnx.export(
            module, (latents,), str(path), dynamo=False, opset_version=17, input_names=["latents"], dynamic_axes=axes
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@click.command()
@click.option("--groups", default=16, show_default=True)
@click.option("--tokens", default=64, show_default=True)
@click.option("--codes", default=256, show_default=True)
@click.option("--dim", default=8, show_default=True)
@click.option("--switches", default=1, show_default=True)
@memory_options
@click.option("--against", type=int, help="Also time the graph of so many groups with one switch.")
@click.option("--runs", default=200, show_default=True)
def main(
    groups: int,
    tokens: int,
    codes: int,
    dim: int,
    switches: int,
    memory: int | None,
    memory_sets: int | None,
    memory_weights: tuple[int, ...] | None,
    against: int | None,
    runs: int,
) -> None:
    sizes = {"tokens": tokens, "codes": codes, "dim": dim}
    ways = {"memory": memory or 0, "memory_sets": memory_sets or 0, "memory_weights": memory_weights or ()}
    model = CodecModel(CodecConfig(groups=groups, switches=switches, **ways, **sizes))
    latents = torch.randn(3, tokens, dim)
    modules: dict[str, nn.Module] = {"as in bundles": Shipped(model), "whole distances": Shipped(model, 2)}
    if switches == 1 and not memory:
        modules["(M, T, K, d)"] = Natural(model.codebooks.full().detach())
    other = {f"{against} groups": Shipped(CodecModel(CodecConfig(groups=against, **sizes)))} if against else {}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: session(m, latents, Path(folder) / f"{i}.onnx") for i, (name, m) in enumerate(modules.items())
        }
        outputs = [s.run(None, {"latents": latents.numpy()}) for s in sessions.values()]
        assert all(np.array_equal(a, b) for other in outputs[1:] for a, b in zip(outputs[0], other, strict=True))
        sessions |= {name: session(m, latents, Path(folder) / "other.onnx") for name, m in other.items()}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(runs):
            for name, one in sessions.items():
                start = time.perf_counter()
                one.run(None, {"latents": latents[:1].numpy()})
                times[name].append((time.perf_counter() - start) * 1e3)
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name:15} median {middle:.3f} ms   quartiles {low:.3f} .. {high:.3f}   (batch 1, one thread)", end="")
        ratio = statistics.median(b / a for a, b in zip(times["as in bundles"], values, strict=True))
        print(f"   {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
