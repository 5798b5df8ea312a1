"""Full-size encoders of the published tokenizers on this CPU: latency and memory, by variant.

Every tokenizer gets seeded random weights, is imported and exported; its encoder is run on one picture at a time, the
variants in turn. Each variant runs in a process of its own, whose peak memory is read at the end.

usage: python benchmarks/backbone_encoders.py [titok-s maskgit-vqgan ...] [--runs 5 --threads 1]
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

HERE = Path(__file__).parent
STCQ = [sys.executable, "-c", "from stcq.cli import run; run()"]
NAMES = ["titok-s", "maskgit-vqgan", "taming-vqgan", "codeformer"]


def worker(bundle: str, variant: str, threads: int) -> None:
    """One variant's encoder: answers every line on standard input with the milliseconds of one run."""
    from stcq import Codec

    with Codec.load(bundle, variant=variant, threads=threads) as codec:
        size = codec.info.image_size
        picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        codec.latents(picture)
        print("ready", flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            codec.latents(picture)
            milliseconds = (time.perf_counter() - start) * 1e3
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps([milliseconds, peak]), flush=True)


def measure(bundle: Path, runs: int, threads: int) -> dict[str, tuple[list[float], float]]:
    """Milliseconds of each run and peak MiB of every variant of a bundle, the variants interleaved."""
    variants = [v["name"] for v in json.loads((bundle / "manifest.json").read_text())["variants"]]
    command = [sys.executable, __file__, "--worker", str(bundle), "--threads", str(threads), "--variant"]
    processes = {}
    for name in variants:
        process = subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if process.stdout.readline() == "ready\n":
            processes[name] = process
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
@click.argument("names", nargs=-1, type=click.Choice([*NAMES, "titok-b", "titok-l"]))
@click.option("--runs", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--export-option", "options", multiple=True, help="Passed on to stcq export; repeat.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the bundles, used again if they are there.")
@click.option("--worker", "bundle", hidden=True)
@click.option("--variant", hidden=True)
def main(
    names: tuple[str, ...],
    runs: int,
    threads: int,
    options: tuple[str, ...],
    keep: Path | None,
    bundle: str | None,
    variant: str | None,
) -> None:
    if bundle and variant:
        worker(bundle, variant, threads)
        return
    print(f"{'':16}{'variant':16}{'median ms':>10}{'quartiles':>18}{'peak MiB':>10}{'to fp32':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        for name in names or NAMES:
            out = folder / f"{name}-bundle"
            if not out.exists():
                weights, checkpoint = folder / f"{name}.safetensors", folder / f"{name}-checkpoint"
                backbone = "titok" if name.startswith("titok") else name
                for command in (
                    [sys.executable, str(HERE / "random_weights.py"), name, str(weights)],
                    [*STCQ, "import", backbone, str(weights), "-o", str(checkpoint)],
                    [*STCQ, "export", str(checkpoint), "-o", str(out), *options],
                ):
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found = measure(out, runs, threads)
            first = next(iter(found.values()))[0]
            for kind, (times, peak) in found.items():
                low, middle, high = statistics.quantiles(times, n=4)
                ratio = statistics.median(b / a for a, b in zip(times, first, strict=True))
                spread = f"{low:.0f} .. {high:.0f}"
                print(f"{name:16}{kind:16}{middle:10.0f}{spread:>18}{peak:10.0f}{ratio:8.2f}x", flush=True)


if __name__ == "__main__":
    main()
