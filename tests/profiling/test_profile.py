"""`stcq profile` on a real bundle: real processes, the document's schema, the reports, comparing."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from stcq.cli import main
from stcq.errors import StcqError
from stcq.profiling.compare import compare, read
from stcq.profiling.process import WorkerProcess
from stcq.profiling.profile import Plan, crowded, profile
from stcq.runtime.backends import is_installed

KEYS = {
    *("schema", "time", "bundle", "settings", "machine", "sensors", "load"),
    *("runs", "failed", "comparison", "noisy", "warnings"),
}
RUN_KEYS = {
    *("run", "variant", "backend", "precision", "computes_in", "threads", "batch", "warm_up", "stages"),
    *("faces_per_second", "drift", "cold_start_ms", "open_ms", "memory", "model_bytes"),
}
ENCODE = ["read", "resize", "tokenizer", "encoder", "group selection", "quantise", "pack", "encode"]
DECODE = ["unpack", "decoder", "lookup", "decode"]


@pytest.fixture(scope="module")
def measured(targets_bundle: Path) -> dict[str, Any]:
    plan = Plan(variants=("onnx-fp32", "openvino-fp32"), batches=(1, 3), seconds=0.6, cold=1)
    return profile(targets_bundle, plan)


def stcq(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


def test_the_document_keeps_its_schema(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured)) == measured
    assert set(measured) == KEYS
    assert measured["schema"] == "stcq-profile/1"
    names = [f"{v} t1 b{b}" for v in ("onnx-fp32", "openvino-fp32") for b in (1, 3)]
    assert [run["run"] for run in measured["runs"]] == names
    for run in measured["runs"]:
        assert set(run) == RUN_KEYS
        assert [entry["stage"] for entry in run["stages"]] == ENCODE + DECODE
        for entry in run["stages"]:
            assert {"kind", "part_of", "count", "mean", "max", "p50", "p90", "p99"} < set(entry)
            assert 0 < entry["p50"]["value"] <= entry["p90"]["value"] <= entry["p99"]["value"] <= entry["max"]
        assert run["cold_start_ms"]["median"] > 0
        assert run["model_bytes"]["all"] > run["model_bytes"]["encode"] > 0
    assert measured["noisy"] == bool(
        [w for w in measured["warnings"] if "governor" not in w and "container may" not in w]
    )


def test_whole_calls_take_as_long_as_their_parts(measured: dict[str, Any]) -> None:
    for run in measured["runs"]:
        least = {entry["stage"]: entry["p50"]["value"] for entry in run["stages"]}
        assert least["encode"] > least["resize"]
        assert least["decode"] > least["unpack"]


def test_runs_are_compared_with_the_first(measured: dict[str, Any]) -> None:
    assert [entry["baseline"] for entry in measured["comparison"]] == ["onnx-fp32 t1 b1"] * 3
    for entry in measured["comparison"]:
        figure = entry["times_faster"]["encode"]
        assert figure["value"] > 0
        assert figure["low"] is figure["high"] is None  # two turns bound nothing


def test_memory_is_told_apart_by_process(measured: dict[str, Any]) -> None:
    seen = measured["runs"][0]["memory"]
    if seen["library"]["resident_mb"] == "unknown":
        pytest.skip("this system does not say how much memory a process has")
    assert 0 < seen["library"]["resident_mb"] < seen["decode"]["peak_mb"]


def test_the_router_has_its_own_stages(small_bundle: Path) -> None:
    found = profile(small_bundle, Plan(policy="router", kinds=("encode",), seconds=0.1, cold=0))
    parts = {entry["stage"]: entry["part_of"] for entry in found["runs"][0]["stages"]}
    assert list(parts) == ["read", "resize", "encoder", "group selection", "quantise", "pack", "encode"]
    assert set(parts.values()) == {None}
    assert found["runs"][0]["cold_start_ms"]["median"] is None


def test_the_command_writes_all_reports(small_bundle: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"p.{kind}" for kind in ("json", "html", "png")}
    options = ["--json", files["json"], "--html", files["html"], "--plot", files["png"]]
    result = stcq(small_bundle, "--seconds", 0.1, "--cold", 0, "--threads", "1,2", "--stage", "decode", *options)
    assert result.exit_code == 0, result.output
    assert "onnx-fp32 t2 b1" in result.output
    document = read(files["json"])
    assert [entry["stage"] for entry in document["runs"][0]["stages"]] == DECODE
    with Image.open(files["png"]) as image:
        assert image.format == "PNG"
    cells: list[str] = []
    parser = HTMLParser()
    parser.handle_data = cells.append  # type: ignore[method-assign]
    parser.feed(files["html"].read_text())
    assert {"onnx-fp32 t1 b1", "decoder", "  lookup"} <= set(cells)
    assert not {"<script", "http"} & {cell[:7] for cell in cells}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.html", "p.json", "p.png"]


def test_json_on_standard_output_is_nothing_but_json(small_bundle: Path) -> None:
    result = stcq(small_bundle, "--seconds", 0.1, "--cold", 0, "--stage", "decode", "--json", "-")
    assert json.loads(result.stdout)["schema"] == "stcq-profile/1"


def test_comparing_two_profiles(measured: dict[str, Any], tmp_path: Path) -> None:
    slower = copy.deepcopy(measured)
    for entry in slower["runs"][0]["stages"]:
        entry["p50"] = {name: None if value is None else value * 3 for name, value in entry["p50"].items()}
    slower["runs"].pop()
    slower["machine"]["cpu"], slower["noisy"] = "another", True
    found = compare(measured, slower)
    by_stage = {row["stage"]: row for row in found["rows"] if row["run"] == "onnx-fp32 t1 b1"}
    assert by_stage["encode"]["times_faster"] == pytest.approx(1 / 3)
    assert {row["verdict"] for row in found["rows"] if row["run"] != "onnx-fp32 t1 b1"} == {"same"}
    assert found["only_in_first"] == ["openvino-fp32 t1 b3"]
    assert len([w for w in found["warnings"] if "noisy" in w or "cpu" in w]) >= 2
    for name, document in (("a", measured), ("b", slower)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    result = stcq("--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert result.exit_code == 0
    assert "only in first: openvino-fp32 t1 b3" in result.output


def test_other_policies_and_arithmetic_are_warned_about(measured: dict[str, Any]) -> None:
    other = copy.deepcopy(measured)
    other["bundle"]["policy"], other["runs"][0]["computes_in"] = "router", "bf16"
    own = measured["runs"][0]["computes_in"]
    assert {
        "groups were chosen by other policies: nn and router",
        f"onnx-fp32 t1 b1 computes in {own} and bf16",
    } <= set(compare(measured, other)["warnings"])
    assert not [warning for warning in compare(measured, measured)["warnings"] if "noisy" not in warning]


def test_an_interval_decides_between_faster_and_same(measured: dict[str, Any]) -> None:
    first, second = copy.deepcopy(measured), copy.deepcopy(measured)
    for document, (low, value, high) in ((first, (9, 10, 11)), (second, (4, 5, 6))):
        document["runs"][0]["stages"][0]["p50"] = {"low": low, "value": value, "high": high}
    assert compare(first, second)["rows"][0]["verdict"] == "faster"
    assert compare(second, first)["rows"][0]["verdict"] == "slower"


def test_bad_input_is_one_line(small_bundle: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    (tmp_path / "empty.png").touch()
    for arguments, said in (
        (["--threads", "0"], "no list of numbers"),
        (["--batch", "two"], "no list of numbers"),
        (["--variant", "tpu"], "no variant 'tpu'"),
        (["--backend", "tensorrt"], "no such variant that runs here"),
        (["--json", "no/such/folder.json"], "does not exist"),
        (["--image", tmp_path / "none.png"], "cannot be read"),
        (["--image", tmp_path / "empty.png"], "no picture"),
        (["--plot", tmp_path / "p.jpg"], "give a name with .png, .svg, .pdf"),
        (["--json", tmp_path], "is a directory"),
        (["--html", tmp_path], "is a directory"),
        (["--plot", tmp_path], "is a directory"),
        (["--compare", "a.json", "b.json", "--html", "page.html"], "no --html"),
        (["--compare", "a.json", "b.json", "--plot", "p.png"], "no --plot"),
        (["--compare", "a.json", "b.json", "--json", "no/such/folder.json"], "does not exist"),
    ):
        result = stcq(small_bundle, *arguments)
        assert result.exit_code != 0
        assert said in result.output
        assert "Traceback" not in result.output
    for content, said in (
        ("{", "no JSON"),
        ("[]", "no profile"),
        ('{"schema": "stcq-profile/9"}', "upgrade stcq"),
        ('{"schema": "stcq-profile/1", "runs": [{"run": 1}]}', "damaged"),
        (json.dumps(measured | {"runs": []}), "no run in common"),
    ):
        (tmp_path / "bad.json").write_text(content)
        (tmp_path / "good.json").write_text(json.dumps(measured))
        result = stcq("--compare", tmp_path / "bad.json", tmp_path / "good.json")
        assert result.exit_code == 1
        assert said in result.output


def test_a_picture_that_is_none(small_bundle: Path) -> None:
    with pytest.raises(StcqError, match="no picture"):
        profile(small_bundle, Plan(seconds=0.1, cold=0), b"nothing")


def test_a_worker_that_dies_is_an_error() -> None:
    with WorkerProcess() as worker:
        worker._process.kill()
        with pytest.raises(StcqError, match="ended with code -9"):
            worker.ask("turn", batch=1, seconds=0)


@pytest.mark.parametrize(("code", "said"), [(1, "what it printed says why"), (137, "run out of memory")])
def test_only_killed_workers_may_have_run_out_of_memory(code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = subprocess.Popen
    command = [sys.executable, "-c", f"raise SystemExit({code})"]
    monkeypatch.setattr("subprocess.Popen", lambda _, **options: original(command, **options))
    with WorkerProcess() as worker, pytest.raises(StcqError, match=f"ended with code {code}; .*{said}"):
        worker.ask("turn", batch=1, seconds=0)


def test_a_missing_library_is_named_with_its_fix(targets_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if is_installed("tensorrt"):
        pytest.skip("TensorRT is installed here")
    with pytest.raises(StcqError, match="tensorrt is not installed; run: "):
        profile(targets_bundle, Plan(variants=("tensorrt-fp32",), seconds=0.1, cold=0))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of a terminal")
def test_an_interrupted_profile_is_quiet(small_bundle: Path) -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's & has it ignored
    code = f"{heard}from stcq.cli import run; run()"
    command = [sys.executable, "-c", code, "profile", small_bundle, "--seconds", "60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 60
    while subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True).returncode and time.monotonic() < end:
        time.sleep(0.1)  # until it measures, in a process of its own
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the job
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert "Traceback" not in said


def test_more_threads_than_cpus_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stcq.profiling.profile.available_cpus", lambda: 2)
    assert crowded((1, 2)) == []
    assert crowded((1, 4, 8)) == ["4, 8 threads share the 2 CPUs that this process may use"]


def test_profiling_needs_nothing_but_the_base() -> None:
    heavy = "torch onnx openvino matplotlib safetensors"
    code = (
        "import sys, stcq.profiling.profile, stcq.profiling.html, stcq.profiling.worker, stcq.profiling.cli;"
        f"assert not set('{heavy}'.split()) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
