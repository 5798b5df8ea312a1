"""What `keep_freed_memory` gains: training steps of the reference model with and without it, interleaved processes.

usage: python benchmarks/training_memory.py [--batch 32] [--rounds 3]
"""

import statistics
import subprocess
import sys

import click

STEPS = """
import sys, time, torch
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.training.train import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.manual_seed(0)
model = CodecModel(CodecConfig()).train()
model.encoder.to(memory_format=torch.channels_last), model.decoder.to(memory_format=torch.channels_last)
images = torch.rand(int(sys.argv[2]), 3, 128, 128).contiguous(memory_format=torch.channels_last)
times = []
for _ in range(6):
    start = time.perf_counter()
    (model.decode(model.encode(images)) - images).abs().mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times[1:])[2])
"""


@click.command()
@click.option("--batch", default=32, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(batch: int, rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        plain, kept = (
            float(
                subprocess.run([sys.executable, "-c", STEPS, mode, str(batch)], capture_output=True, check=True).stdout
            )
            for mode in ("plain", "keep")
        )
        ratios.append(plain / kept)
        print(f"step of {batch}: {plain:.2f} s, with kept memory {kept:.2f} s, ratio {plain / kept:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} .. {max(ratios):.2f}")


if __name__ == "__main__":
    main()
