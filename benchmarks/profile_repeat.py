"""Do repeated profiles agree, or say that the machine is noisy? Also beside a process that loads half a core.

usage: python benchmarks/profile_repeat.py [--times 3 --seconds 4]
"""

import multiprocessing
import time

import click
from stcq.profiling.profile import Plan, profile
from stcq.runtime.bundle import EMBEDDED

HALF = 0.05  # seconds of work, then as many of sleep


def load() -> None:
    while True:
        end = time.perf_counter() + HALF
        while time.perf_counter() < end:
            pass
        time.sleep(HALF)


@click.command()
@click.option("--times", default=3, show_default=True)
@click.option("--seconds", default=4.0, show_default=True)
def main(times: int, seconds: float) -> None:
    for loaded in (False, True):
        other = multiprocessing.Process(target=load, daemon=True)
        if loaded:
            other.start()
        found = [profile(EMBEDDED, Plan(kinds=("encode",), seconds=seconds, cold=0)) for _ in range(times)]
        if loaded:
            other.terminate()
        medians = [1e3 / document["runs"][0]["faces_per_second"]["encode"] for document in found]
        apart = max(medians) / min(medians) - 1
        noisy = sum(document["noisy"] for document in found)
        click.echo(
            f"{'one core half loaded' if loaded else 'as it is'}: p50 {', '.join(f'{m:.2f}' for m in medians)} ms"
        )
        verdict = "agree within 5 %" if apart <= 0.05 else "do not agree"
        click.echo(f"  {apart:.1%} apart ({verdict}); {noisy} of {times} reports say that the machine is noisy")
        for sentence in sorted({warning for document in found for warning in document["warnings"]}):
            click.echo(f"  {sentence}")


if __name__ == "__main__":
    main()
