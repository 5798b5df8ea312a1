"""variant="auto": the fastest by a stored measurement, by one made now, or the first that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stcq.errors import BackendError
from stcq.runtime import choose as module
from stcq.runtime.bundle import Bundle
from stcq.runtime.choose import candidates, choose, measure
from stcq.runtime.codec import Codec
from stcq.runtime.machine import fingerprint
from stcq.runtime.manifest import Variant


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small codec with its fp32 graphs once more under the name of an int8 variant."""
    monkeypatch.setenv("STCQ_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    edit(folder)
    return folder


def edit(folder: Path, needs: tuple[str, ...] = (), measured: dict | None = None) -> None:
    """Write the manifest with an int8 variant and a measurement."""
    manifest = Bundle(folder).manifest
    plain = manifest.variants[0]
    graphs = {name: files for name, files in plain.graphs.items() if name != "tokenizer"}
    quick = Variant("onnx-int8", "onnxruntime", "int8", graphs, {"calibration": {"needs": list(needs)}})
    provenance = {"measured": measured} if measured else {}
    changed = manifest._replace(variants=(plain, quick), provenance=provenance)
    (folder / "manifest.json").write_text(changed.to_json())


@pytest.mark.parametrize("quickest", ["onnx-fp32", "onnx-int8"])
def test_the_calibrations_measurement_decides_here(
    bundle: Path, quickest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"onnx-fp32": 2.0, "onnx-int8": 2.0} | {quickest: 1.0}
    edit(bundle, measured={"machine": fingerprint(), "encode_ms": times})
    monkeypatch.setattr(module, "measure", None)
    with Codec.load(bundle) as codec:
        assert codec.info.variant == quickest
        assert "1.00 ms a face against" in codec.choice.reason
        assert "measured by stcq calibrate" in codec.choice.reason


def test_another_machine_measures_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(bundle, measured={"machine": "another", "encode_ms": {"onnx-fp32": 1.0, "onnx-int8": 2.0}})
    counted = []

    def measured(opened: Bundle, seconds: float) -> dict[str, float]:
        counted.append(seconds)
        return {"onnx-fp32": 9.0, "onnx-int8": 3.0}

    monkeypatch.setattr(module, "measure", measured)
    first, second = choose(Bundle(bundle)), choose(Bundle(bundle))
    assert first.variant.name == second.variant.name == "onnx-int8"
    assert first.reason.endswith("measured now")
    assert second.reason.endswith("measured here before")
    assert counted == [2.0]


def test_a_damaged_or_unwritable_cache_is_no_error(bundle: Path, tmp_path: Path) -> None:
    choose(Bundle(bundle))
    [stored] = (tmp_path / "cache" / "variants").iterdir()
    for content in ("", "[]", '{"machine": 1}', '{"encode_ms": {"onnx-int8": "fast"}}'):
        stored.write_text(content)
        assert choose(Bundle(bundle)).reason.endswith("measured now")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    assert choose(Bundle(bundle)).reason.endswith("measured now")


@pytest.mark.parametrize("when", ["opened", "run"])
def test_a_variant_that_does_not_work_here_is_left_out_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Failing:
        def open(self, path: Path, options: object) -> Failing:
            if when == "opened":
                raise BackendError("too old for this graph")
            return self

        def run_rows(self, feeds: object) -> None:
            raise BackendError("too old for this graph")

    plain, quick = Bundle(bundle).manifest.variants
    changed = Bundle(bundle).manifest._replace(variants=(plain, quick._replace(backend="openvino")))
    (bundle / "manifest.json").write_text(changed.to_json())
    usual = module.open_backend
    monkeypatch.setattr(module, "is_installed", lambda backend: True)
    monkeypatch.setattr(module, "open_backend", lambda name: Failing() if name == "openvino" else usual(name))
    first, second = choose(Bundle(bundle)), choose(Bundle(bundle))
    assert first.variant.name == second.variant.name == "onnx-fp32"
    assert first.reason.endswith("measured now")
    assert second.reason.endswith("measured here before")


def test_the_measurement_runs_every_variant(bundle: Path) -> None:
    times = measure(Bundle(bundle), seconds=0.05)
    assert set(times) == {"onnx-fp32", "onnx-int8"}
    assert all(0 < value < 10_000 for value in times.values())
    assert json.loads(json.dumps(times)) == times


def test_an_int8_form_that_this_cpu_would_overflow_is_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(bundle, needs=("avx512_vnni", "avx_vnni"))
    for machine, features, found in (
        ("x86_64", ["avx2"], 1),
        ("x86_64", ["avx2", "avx_vnni"], 2),
        ("aarch64", ["asimd"], 2),
    ):
        monkeypatch.setattr(module.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(module, "own_features", lambda features=features: features)
        assert len(candidates(Bundle(bundle))) == found


def test_a_bundle_without_calibration_opens_its_first(small_bundle: Path) -> None:
    with Codec.load(small_bundle) as codec:
        assert codec.choice == (codec.bundle.manifest.variants[0], "the first that runs here")
    with Codec.load(small_bundle, variant="onnx-fp32") as codec:
        assert codec.choice.reason == "asked for"
