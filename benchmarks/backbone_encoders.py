"""Full-size encoders of the published tokenizers on this CPU: latency and peak memory by backend and precision.

Every encoder gets seeded random weights and is traced as export does it. The variants run one picture at a time, in
turn, each in a process of its own whose peak memory is read at the end. "auto" is what OpenVINO does when it is left
alone, bfloat16 where the CPU has it.

usage: python benchmarks/backbone_encoders.py [titok-s maskgit-vqgan ...] [--runs 5 --threads 1]
"""

import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
from random_weights import NAMES, tokenizer  # beside this file, and without torch until called

OPSET = 17
DEFAULT = ("titok-s", "maskgit-vqgan", "taming-vqgan", "codeformer")
VARIANTS = {  # backend, precision asked of it, graph
    "onnxruntime fp32": ("onnxruntime", "f32", "fp32.onnx"),
    "onnxruntime fp16": ("onnxruntime", "f32", "fp16.onnx"),
    "openvino fp32": ("openvino", "f32", "fp32.onnx"),
    "openvino auto": ("openvino", "auto", "fp32.onnx"),
}


def write(name: str, folder: Path) -> None:
    """The encoder's graph in fp32 and fp16."""
    import onnx
    import torch
    from stcq.export.graphs import EncoderGraph
    from stcq.export.half import to_half
    from stcq.export.trace import simplify

    made, size = tokenizer(name)
    graph = EncoderGraph(cast(Any, SimpleNamespace(encoder=made.eval().halves()[0])))
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            cast(Any, written),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["latents"],
            dynamic_axes={"image": {0: "batch"}, "latents": {0: "batch"}},
        )
    proto = simplify(onnx.load_from_string(written.getvalue()))
    onnx.save(proto, folder / "fp32.onnx")
    onnx.save(to_half(proto), folder / "fp16.onnx")


def worker(graph: str, backend: str, precision: str, threads: int) -> None:
    """Answers every line on standard input with the milliseconds of one run, and the peak memory so far in MiB."""
    from stcq.runtime.backends import open_backend
    from stcq.runtime.backends.base import SessionOptions

    with open_backend(backend).open(Path(graph), SessionOptions(threads, precision)) as session:
        size = session.inputs["image"].shape[1]
        feeds = {"image": np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)}
        session.run(feeds)
        print(session.precision, flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            session.run(feeds)
            milliseconds = (time.perf_counter() - start) * 1e3
            print(json.dumps([milliseconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]), flush=True)


def measure(folder: Path, runs: int, threads: int) -> dict[str, tuple[list[float], float]]:
    """Milliseconds of each run and peak MiB of every variant, the variants interleaved."""
    processes = {}
    for name, (backend, precision, graph) in VARIANTS.items():
        command = [sys.executable, __file__, "--worker", str(folder / graph), backend, precision, str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if used := process.stdout.readline().strip():
            processes[f"{name} ({used})" if precision == "auto" else name] = process
        else:
            print(f"  {name} cannot run here")
    times: dict[str, list[float]] = {name: [] for name in processes}
    peaks = dict.fromkeys(processes, 0.0)
    for _ in range(runs):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            milliseconds, peaks[name] = json.loads(process.stdout.readline())
            times[name].append(milliseconds)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return {name: (times[name], peaks[name]) for name in processes}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--runs", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(names: tuple[str, ...], runs: int, threads: int) -> None:
    print(f"{'':16}{'':24}{'median ms':>10}{'quartiles':>18}{'peak MiB':>10}{'speed':>9}   ({threads} threads)")
    for name in names or DEFAULT:
        with tempfile.TemporaryDirectory() as folder:
            # in a process of its own: torch's memory is not the encoder's
            subprocess.run([sys.executable, __file__, "--write", name, folder], check=True)
            found = measure(Path(folder), runs, threads)
        first = next(iter(found.values()))[0]
        for variant, (times, peak) in found.items():
            low, middle, high = statistics.quantiles(times, n=4)
            ratio = statistics.median(b / a for a, b in zip(times, first, strict=True))
            spread = f"{low:.0f} .. {high:.0f}"
            print(f"{name:16}{variant:24}{middle:10.0f}{spread:>18}{peak:10.0f}{ratio:8.2f}x", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    elif sys.argv[1:2] == ["--write"]:
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
