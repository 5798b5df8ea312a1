"""`Codec.encode` on OpenVINO against Intel's benchmark_app for the same graph: what the runtime adds.

Exports the checkpoint for OpenVINO, then lets benchmark_app and the codec run in turns, each in a new process every
round, with one synchronous request.

usage: python benchmarks/benchmark_app.py [--checkpoint checkpoints/face-65 --rounds 7 --seconds 5 --threads 1]
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from interleave import table
from stcq.export.export import export
from stcq.export.request import Request

ROOT = Path(__file__).parent.parent
ENCODE = """
import sys, time, numpy as np
from stcq import Codec
from stcq.profiling.pictures import example
from stcq.runtime.images import open_image, prepare
codec = Codec.load(sys.argv[1], variant="openvino-fp32", threads=int(sys.argv[3]))
face = prepare(open_image(example()), codec.info.image_size)
times, end = [], time.perf_counter() + float(sys.argv[2]) + 0.5
while time.perf_counter() < end:
    start = time.perf_counter()
    codec.encode(face)
    times.append((time.perf_counter() - start) * 1e3)
print(np.median(times[len(times) // 10:]))
"""


def benchmark_app(graph: Path, seconds: float, threads: int) -> float:
    """benchmark_app's median in ms. Precision and execution mode as the codec's, which keeps to float32."""
    tool = Path(sys.executable).with_name("benchmark_app")
    options = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-b", "1"]
    precision = ["-infer_precision", "f32"]
    run = [str(tool), "-m", str(graph), *options, *precision, "-t", str(max(1, round(seconds)))]
    said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"Median:\s*([\d.]+) ms", said)[1])


def encode(bundle: Path, seconds: float, threads: int) -> float:
    """The codec's median in ms, from an aligned face to its packet."""
    run = [sys.executable, "-c", ENCODE, str(bundle), str(seconds), str(threads)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=ROOT / "checkpoints" / "face-65")
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(checkpoint: Path, rounds: int, seconds: float, threads: int) -> None:
    times: dict[str, list[float]] = {"Codec.encode": [], "benchmark_app": []}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(checkpoint, Path(folder) / "bundle", requests=[Request("openvino")]).bundle
        graph = next(bundle.glob("openvino-fp32/tokenizer.xml"))
        for _ in range(rounds):
            times["benchmark_app"].append(benchmark_app(graph, seconds, threads))
            times["Codec.encode"].append(encode(bundle, seconds, threads))
    click.echo(f"medians of {rounds} processes each, {threads} thread(s)")
    table(times, "benchmark_app")


if __name__ == "__main__":
    main()
