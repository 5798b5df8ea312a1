"""What stcq leaves out of ONNX Runtime: I/O binding, and a cache of the optimised graph. Measured so that it stays out.

usage: python benchmarks/session_options.py [--rounds 60 --opens 15]
"""

import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
from interleave import interleave, table
from stcq.profiling.pictures import example
from stcq.runtime.bundle import EMBEDDED
from stcq.runtime.images import open_image, prepare


def options(optimised: Path | None = None, ready: bool = False) -> ort.SessionOptions:
    """As the runtime's; `optimised` writes the optimised graph, `ready` opens such a one."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    if ready:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return settings


def opened(graph: Path, settings: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])


@click.command()
@click.option("--rounds", default=60, show_default=True)
@click.option("--opens", default=15, show_default=True)
def main(rounds: int, opens: int) -> None:
    face = prepare(open_image(example()), 128)[None]
    with tempfile.TemporaryDirectory() as folder:
        for graph in (EMBEDDED / "onnx-fp32" / "tokenizer.onnx", EMBEDDED / "onnx-int8" / "encoder.onnx"):
            name = f"{graph.parent.name}/{graph.stem}"
            session = opened(graph, options())
            binding = session.io_binding()
            binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(face))
            for output in session.get_outputs():
                binding.bind_output(output.name)
            beside = shutil.copytree(graph.parent, Path(folder) / graph.parent.name)  # it refers to some weights
            kept = Path(beside) / "kept.onnx"
            start = time.perf_counter()
            opened(graph, options(kept))
            click.echo(f"{name}: optimising and writing {(time.perf_counter() - start) * 1e3:.0f} ms")
            wanted = session.run(None, {"image": face})
            found = opened(kept, options(ready=True)).run(None, {"image": face})
            assert all(map(np.array_equal, wanted, found))
            click.echo(f"kept graph: {kept.stat().st_size / 1e6:.1f} MB")
            functions = {
                f"{name}: run": lambda session=session: session.run(None, {"image": face}),
                f"{name}: I/O binding": lambda session=session, b=binding: session.run_with_iobinding(b),
            }
            table(interleave(functions, rounds), f"{name}: run")
            functions = {
                f"{name}: open": lambda graph=graph: opened(graph, options()),
                f"{name}: open the kept graph": lambda kept=kept: opened(kept, options(ready=True)),
            }
            table(interleave(functions, opens), f"{name}: open")


if __name__ == "__main__":
    main()
