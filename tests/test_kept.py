"""What a sweep keeps of an optional runtime holds for the version that is installed."""

import importlib.metadata
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from interrupting import time_until_interrupted

from course_utils import folders, sweep
from course_utils.measure import find_right, latency
from course_utils.measure.turns import MOST_CALLS
from course_utils.runtimes import MissingRuntimeError
from course_utils.runtimes.available import MODULES
from course_utils.sweep import classifier, kept

ROUNDS = 10
RIGHT = {"ONNX Runtime": 10, "OpenVINO": 20, "ExecuTorch": 30}


@pytest.fixture(autouse=True)
def installed(monkeypatch) -> dict[str, str | None]:
    """Let these versions be installed, None: not there; a test may change them."""
    versions = {module: "1.0" for modules in kept.OPTIONAL.values() for module in modules}
    really_find = importlib.metadata.version

    def find(package):
        found = versions[package] if package in versions else really_find(package)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(importlib.metadata, "version", find)
    return versions


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Return a list that grows with the runtime whose accuracy is counted."""
    names: list[str] = []

    def count_and_note(runner, split, batch):
        names.append(runner.runtime)
        return find_right(runner, split, batch)

    monkeypatch.setattr(classifier, "find_right", count_and_note)
    return names


@pytest.fixture
def measure(make_runner, tiny_split, counted):
    """Return a function that does the same sweep each time, and tells what was counted in it."""

    def at(runtime):
        return replace(make_runner(right=RIGHT[runtime]), runtime=runtime)

    def measure(runtimes=tuple(RIGHT)):
        counted.clear()
        measured = sweep.measure(
            at,
            over={"runtime": runtimes},
            on=tiny_split,
            against={"runtime": "ONNX Runtime"},
            rounds=ROUNDS,
        )
        for point in measured.points:
            right = RIGHT[point.setting["runtime"]]
            assert point.accuracy.value == pytest.approx(100 * right / 30)
            assert point.latency.count == ROUNDS * MOST_CALLS
        return measured

    return measure


def cache_file() -> Path:
    (file,) = (folders.cache_folder() / "sweeps").glob("*.journal")
    return file


def entries(kind: str) -> list[dict]:
    found = [json.loads(line[9:]) for line in cache_file().read_text().splitlines() if line]
    return [entry for entry in found if entry["kind"] == kind]


def latencies(measured) -> list:
    return [point.latency for point in measured.points]


def test_only_runtimes_that_a_machine_s_id_leaves_out_are_optional():
    assert set(kept.OPTIONAL) == set(MODULES) - {"ONNX Runtime"}


def test_a_point_of_an_optional_runtime_keeps_its_versions_and_others_none(measure):
    measure()
    versions = [entry.get("versions") for entry in entries("point")]
    openvino, executorch = "openvino 1.0, nncf 1.0", "executorch 1.0, torchao 1.0"
    assert versions == [None, {"OpenVINO": openvino}, {"ExecuTorch": executorch}]


def test_with_the_same_versions_nothing_is_measured_again(measure, counted):
    first = measure()
    assert counted == list(RIGHT)
    again = measure()
    assert counted == []
    assert latencies(again) == latencies(first)


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_after_an_upgrade_what_the_runtime_ran_is_measured_again(
    measure, installed, counted, package
):
    measure()
    installed[package] = "2.0"
    second = measure()
    assert counted == ["OpenVINO"]
    assert len(entries("round")) == 2 * ROUNDS  # speeds compare times of the same rounds
    third = measure()
    assert counted == []
    assert latencies(third) == latencies(second)


def test_what_an_earlier_version_found_serves_when_it_is_back(measure, installed, counted):
    first = measure()
    installed["openvino"] = "2.0"
    measure()
    installed["openvino"] = "1.0"
    assert latencies(measure()) == latencies(first)
    assert counted == []


def test_an_upgrade_leaves_the_sweeps_without_the_runtime_alone(measure, installed, counted):
    names = ["ONNX Runtime", "ExecuTorch"]
    first = measure(names)
    installed["openvino"] = "2.0"
    installed["litert_torch"] = None
    again = measure(names)
    assert counted == []
    assert latencies(again) == latencies(first)


def test_a_point_that_was_kept_without_a_version_is_measured_again(measure, counted):
    measure()
    lines = []
    for line in filter(None, cache_file().read_text().splitlines()):
        entry = json.loads(line[9:])
        entry.pop("versions", None)
        text = json.dumps(entry)
        lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
    cache_file().write_text("".join(lines))
    measure()
    assert counted == ["OpenVINO", "ExecuTorch"]
    assert len(entries("round")) == 2 * ROUNDS


def test_a_runtime_that_is_gone_is_not_read_from_the_cache(
    installed, make_runner, tiny_split, tmp_path
):
    gone = tmp_path / "gone"  # a flag in the closure would be a part of the cache's key

    def at(runtime):
        if gone.exists():
            raise MissingRuntimeError("OpenVINO is not ready here")
        return replace(make_runner(), runtime=runtime)

    name = {"runtime": "OpenVINO"}
    options = {"over": {"runtime": ["OpenVINO"]}, "on": tiny_split, "against": name}
    sweep.measure(at, **options, rounds=1)
    installed["openvino"] = None
    gone.touch()
    with pytest.raises(MissingRuntimeError, match="OpenVINO is not ready here"):
        sweep.measure(at, **options, rounds=1)


def test_rounds_of_two_versions_are_not_mixed_when_one_is_broken_off(
    measure, installed, monkeypatch
):
    measure()
    installed["openvino"] = "2.0"

    with monkeypatch.context() as patch:
        patch.setattr(latency, "time_rounds", time_until_interrupted(3))
        with pytest.raises(KeyboardInterrupt):
            measure()
    new = {"OpenVINO": "openvino 2.0, nncf 1.0", "ExecuTorch": "executorch 1.0, torchao 1.0"}
    assert [entry["versions"] for entry in entries("round")[ROUNDS:]] == [new] * 3
    measured = measure()
    assert len(entries("round")) == 2 * ROUNDS
    times_ms = [entry["times_ms"] for entry in entries("round") if entry["versions"] == new]
    of_openvino = np.array(times_ms)[:, 1]
    assert measured.point(runtime="OpenVINO").latency.value == pytest.approx(np.median(of_openvino))


def test_an_interrupted_sweep_tells_how_many_points_still_hold(
    measure, installed, monkeypatch, capsys
):
    measure()
    installed["openvino"] = "2.0"

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "find_right", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert "Interrupted. 2 of 3 points are kept" in capsys.readouterr().out
