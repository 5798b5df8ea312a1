"""What keeping memory is worth to training: the same steps in two processes, with and without it, in turns.

usage: python benchmarks/train_step.py [--recognizer mobilefacenet.onnx --stage decoder --rounds 12]

All pictures are the embedded portrait, bent and turned by the recipe: what they show does not change a step's time.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from interleave import interleave, table

ROOT = Path(__file__).parent.parent
STEPS = """
import sys
from stcq.cli import run
from stcq.training import memory
from stcq.training.stage import Stage

def waiting(stage, *arguments):
    if not sys.stdin.readline():
        sys.exit()
    result = train_step(stage, *arguments)
    print("done", flush=True)
    return result

train_step, Stage.train_step = Stage.train_step, waiting
if sys.argv.pop(1) == "as it comes":
    memory.keep_memory = lambda: False
run()
"""


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=ROOT / "recipes" / "face-129.toml")
@click.option("--init", type=click.Path(path_type=Path), default=ROOT / "checkpoints" / "face-129")
@click.option("--stage", type=click.Choice(["base", "decoder"]), default="decoder", show_default=True)
@click.option("--recognizer", "recognizers", type=click.Path(path_type=Path), multiple=True)
@click.option("--rounds", default=12, show_default=True)
def main(recipe: Path, init: Path, stage: str, recognizers: Sequence[Path], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = [folder / "a", folder / "b"]  # as many as the recipe's [data] weights
        for place in pictures:
            place.mkdir()
            for number in range(64):
                shutil.copy(ROOT / "assets" / "face.png", place / f"{number}.png")
        running: list[subprocess.Popen[str]] = []

        def start(mode: str) -> Callable[[], None]:
            command = [sys.executable, "-c", STEPS, mode, "train", recipe, "--init", init, "--stage", stage]
            command += [part for place in pictures for part in ("--data", place)]
            command += [part for path in recognizers for part in ("--recognizer", path)]
            command += ["--out", folder / mode, "--device", "cpu"]
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            running.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            asks, answers = process.stdin, process.stdout

            def step() -> None:
                print(file=asks, flush=True)
                while (line := answers.readline()) != "done\n":
                    if not line:
                        raise SystemExit(f"training ended with {process.wait()}")

            return step

        functions = {mode: start(mode) for mode in ("kept", "as it comes")}
        times = interleave(functions, rounds, watch=False)
        for process in running:
            process.communicate()
        table(times, "as it comes")


if __name__ == "__main__":
    main()
