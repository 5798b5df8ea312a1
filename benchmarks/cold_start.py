"""Cold start: `stcq encode` of one picture against importing onnxruntime alone, interleaved.

usage: python benchmarks/cold_start.py [--runs 15]
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

FACE = Path(__file__).parent.parent / "assets" / "face.png"
SESSION = (
    "import numpy, PIL.Image, onnxruntime as ort, stcq.runtime.bundle as b;"
    "o = ort.SessionOptions(); o.inter_op_num_threads = 1;"
    "ort.InferenceSession(str(b.EMBEDDED / 'onnx-fp32' / 'tokenizer.onnx'), o, providers=['CPUExecutionProvider'])"
)
COMMANDS = {
    "stcq encode": [sys.executable, "-c", "from stcq.cli import run; run()", "encode", str(FACE), "-o", "-"],
    "import onnxruntime": [sys.executable, "-c", "import onnxruntime"],
    "imports + session": [sys.executable, "-c", SESSION],
}


@click.command()
@click.option("--runs", default=15, show_default=True)
def main(runs: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):  # the first round warms the disk cache
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append((time.perf_counter() - start) * 1e3)
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values[1:], n=4)
        print(f"{name:20} median {middle:6.0f} ms   quartiles {low:.0f} .. {high:.0f}")
    pairs = zip(times["stcq encode"][1:], times["import onnxruntime"][1:], strict=True)
    print(f"difference to importing onnxruntime: median {statistics.median(a - b for a, b in pairs):.0f} ms")
    pairs = zip(times["stcq encode"][1:], times["imports + session"][1:], strict=True)
    print(f"ratio to imports and session: median {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
