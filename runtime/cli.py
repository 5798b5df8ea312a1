"""Commands about this machine: `stcq doctor` and `stcq build`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .options import json_option
from .parts import part


@click.command()
@click.option(
    "--target", type=click.Choice(["onnx", "openvino", "tensorrt"]), help="Only this one; exit code 1 if it cannot run."
)
@json_option
def doctor(target: str | None, as_json: bool) -> None:
    """Say what this machine can run and write, and how to mend what it cannot. Installs nothing."""
    found = part("runtime.doctor").doctor(target)
    click.echo(json.dumps(found, indent=2) if as_json else part("runtime.doctor_report").summary(found))
    if target and not found["targets"][target]["run"]:
        sys.exit(1)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["tensorrt"]), default="tensorrt", show_default=True)
@click.option("--variant", help="One variant (default: all of the target).")
@json_option
def build(bundle: Path, target: str, variant: str | None, as_json: bool) -> None:
    """Build a bundle's engines for this machine, keep them in the user's cache, and run the self-test on them."""
    results = part("runtime.build").build(bundle, target, variant)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    for result in results if not as_json else []:
        for graph, facts in result["engines"].items():
            how = "from the cache" if facts["cached"] else f"built in {facts['seconds']} s"
            click.echo(f"{result['variant']} {graph}: {how}, computes in {' and '.join(facts['types'])}")
        report = result["verify"]
        verdict = "passed" if report["passed"] else "; ".join(report["failures"])
        click.echo(f"{result['variant']}: tokens equal {report['token_agreement']:.2%}, {verdict}")
    if not all(result["verify"]["passed"] for result in results):
        sys.exit(1)
