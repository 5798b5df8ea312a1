"""Build the wheel, check what is in it, install it alone and use it: no torch, no onnx, no openvino.

usage: python tests/wheel/check_wheel.py      (make wheel-test)
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAX_BUNDLE = 25_000_000
PACKAGES = {
    *("runtime", "runtime/backends", "runtime/camera", "server"),
    *("models", "models/backbones", "training", "export", "calibration", "evaluation", "profiling"),
}
USE = """
import sys, importlib.util, numpy, stcq
from stcq.runtime.verify import verify
assert "torch" not in sys.modules
for library in ("torch", "onnx", "openvino", "safetensors"):
    assert importlib.util.find_spec(library) is None, library
assert "site-packages" in stcq.__file__, stcq.__file__
codec = stcq.Codec.load()
assert verify(codec).passed
picture = numpy.random.default_rng(0).integers(0, 256, (200, 300, 3), numpy.uint8)
packet = codec.encode(picture)
assert codec.decode(packet).shape == (128, 128, 3)
print(f"runtime alone: {len(packet)} bytes, verified on {codec.info.variant}")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, quiet=True)
        [wheel] = folder.glob("*.whl")
        check_contents(wheel)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        constraints = ["--constraint", ROOT / "constraints.txt"]
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, wheel)
        run(python, "-c", USE, cwd=folder)
        result = subprocess.run(
            [python.parent / "stcq-export", "x", "-o", "y"], cwd=folder, capture_output=True, text=True
        )
        assert result.returncode == 8, result
        assert "pip install 'stcq[export]'" in result.stderr, result.stderr
        for verb, extra in (("serve", "server"), ("camera", "camera")):
            arguments = [python.parent / "stcq", verb, *([folder / "camera.toml"] if verb == "camera" else [])]
            (folder / "camera.toml").write_text('device = "door-1"\n')
            result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
            assert result.returncode == 8, result
            assert f"pip install 'stcq[{extra}]'" in result.stderr, result.stderr
        for verb in (
            "encode",
            "decode",
            "inspect",
            "verify",
            "demo",
            "doctor",
            "build",
            "profile",
            "export",
            "calibrate",
            "train",
            "camera",
            "serve",
            "token",
        ):
            run(python.parent / "stcq", verb, "--help", cwd=folder, quiet=True)
        run(python.parent / "stcq", "demo", cwd=folder)
        run(python.parent / "stcq", "doctor", cwd=folder, quiet=True)
        quick = ("--seconds", "0.1", "--cold", "1", "--html", "profile.html")
        run(python.parent / "stcq-profile", *quick, cwd=folder, quiet=True)


def check_contents(wheel: Path) -> None:
    """Exactly the package: its modules, the typed marker, the face and the embedded bundle."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    names = {name for name in sizes if ".dist-info/" not in name}
    modules = {f"stcq/{path.relative_to(ROOT)}" for folder in PACKAGES for path in (ROOT / folder).glob("*.py")}
    modules |= {f"stcq/{path.name}" for path in ROOT.glob("*.py")}
    bundle = {f"stcq/{p.relative_to(ROOT)}" for p in (ROOT / "bundles" / "face-65").rglob("*") if p.is_file()}
    page = {f"stcq/server/page/{name}" for name in ("index.html", "page.css", "page.js")}
    expected = modules | bundle | page | {"stcq/py.typed", "stcq/assets/face.png"}
    assert names == expected, f"unexpected {sorted(names - expected)}, missing {sorted(expected - names)}"
    size = sum(sizes[name] for name in bundle)
    assert size <= MAX_BUNDLE, f"the embedded bundle has {size:,} bytes"
    print(f"wheel: {len(modules)} modules, bundle of {size / 1e6:.1f} MB, {wheel.stat().st_size / 1e6:.1f} MB in all")


def run(*command: object, cwd: Path | None = None, quiet: bool = False) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.PIPE if quiet else None
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, stdout=output, stderr=output, text=True)
    if result.returncode:
        raise SystemExit(f"{command} failed: {result.stderr or ''}")


if __name__ == "__main__":
    main()
