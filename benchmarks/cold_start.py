"""Cold start: `stcq encode` of one picture against importing onnxruntime alone, interleaved.

usage: python benchmarks/cold_start.py [--runs 15 --variant auto]
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
from stcq import Codec

FACE = Path(__file__).parent.parent / "assets" / "face.png"
SESSIONS = (
    "import sys, numpy, PIL.Image, onnxruntime as ort;"
    "o = ort.SessionOptions(); o.inter_op_num_threads = 1;"
    "[ort.InferenceSession(graph, o, providers=['CPUExecutionProvider']) for graph in sys.argv[1:]]"
)


def commands(variant: str) -> dict[str, list[str]]:
    """What is timed; the sessions are those that the codec opens for a variant of the embedded bundle."""
    codec = Codec.load(variant=variant)
    names = ["tokenizer"] if "tokenizer" in codec.variant.graphs else ["encoder", "quantizer"]
    graphs = [str(codec.bundle.graph(codec.variant, name)) for name in names]
    click.echo(f"variant {codec.variant.name}: {', '.join(names)}")
    run = [sys.executable, "-c", "from stcq.cli import run; run()"]
    return {
        "stcq encode": [*run, "encode", str(FACE), "--variant", variant, "-o", "-"],
        "import onnxruntime": [sys.executable, "-c", "import onnxruntime"],
        "imports + sessions": [sys.executable, "-c", SESSIONS, *graphs],
    }


@click.command()
@click.option("--runs", default=15, show_default=True)
@click.option("--variant", default="auto", show_default=True)
def main(runs: int, variant: str) -> None:
    compared = commands(variant)
    times: dict[str, list[float]] = {name: [] for name in compared}
    installed = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # pip compiles modules
    for _ in range(runs + 1):  # the first round warms the disk cache and compiles
        for name, command in compared.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=installed)
            times[name].append((time.perf_counter() - start) * 1e3)
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values[1:], n=4)
        print(f"{name:20} median {middle:6.0f} ms   quartiles {low:.0f} .. {high:.0f}")
    pairs = zip(times["stcq encode"][1:], times["import onnxruntime"][1:], strict=True)
    print(f"difference to importing onnxruntime: median {statistics.median(a - b for a, b in pairs):.0f} ms")
    pairs = zip(times["stcq encode"][1:], times["imports + sessions"][1:], strict=True)
    print(f"ratio to imports and session: median {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
