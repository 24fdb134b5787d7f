"""Stages in a fresh process: what is measured, what goes wrong, and that nothing is left over."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from course_utils.measure import fresh_process
from course_utils.measure.fresh_process import SINCE_START, START, run_stages

MIB = 2**20
LOCK = "course_utils.measure.timing_lock.lock_file"


@pytest.fixture(autouse=True)
def lock(monkeypatch, tmp_path) -> Path:
    """Give each test a lock that nobody else holds."""
    file = tmp_path / "lock"
    monkeypatch.setattr(LOCK, lambda: file)
    return file


@pytest.fixture
def temporary(monkeypatch, tmp_path) -> Path:
    """Return the folder in which temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def run_once(stages, **options):
    return run_stages(stages, repeats=1, **options)


def check(condition: str) -> str:
    """Return code that raises unless a condition holds there; PYTHONOPTIMIZE cannot drop it."""
    return f"if not ({condition}): raise RuntimeError({condition!r})"


def plant(monkeypatch, *runs):
    """Let the processes report the given lines instead of running."""
    reports = iter(runs)
    monkeypatch.setattr(fresh_process, "_run_once", lambda *_: next(reports))


# What runs


def test_stages_run_in_order_and_share_their_variables():
    stages = run_once(
        {"a": "x = [1]", "b": "def add(y): x.append(y)", "c": "add(2)", "d": check("x == [1, 2]")}
    )
    assert [stage.name for stage in stages] == [START, "a", "b", "c", "d"]
    assert len(stages) == 5
    assert stages["c"].name == "c"


def test_nothing_of_the_notebook_is_there():
    condition = "not {'numpy', 'torch', 'pytest'} & set(sys.modules) and 'check' not in globals()"
    assert len(run_once({"look": f"import sys\n{check(condition)}"})) == 2


def test_indented_code_of_several_lines_runs():
    stages = run_once(
        {
            "a": """
                x = 0
                for y in range(3):
                    x += y
            """,
            "b": check("x == 3"),
        }
    )
    assert len(stages) == 3


def test_files_are_found_by_their_names():
    content = bytes(range(256))
    code = "content = open('model.onnx', 'rb').read(); import helper"
    conditions = "content == bytes(range(256)) and helper.value == 7"
    files = {"model.onnx": content, "helper.py": b"value = 7"}
    assert len(run_once({"read": code, "check": check(conditions)}, files=files)) == 3


def test_the_environment_is_the_same(monkeypatch):
    monkeypatch.setenv("PLANTED_FOR_A_TEST", "ä 7")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    conditions = "os.environ['PLANTED_FOR_A_TEST'] == 'ä 7' and sys.flags.optimize == 2"
    same = check(f"sys.executable == {sys.executable!r}")
    assert len(run_once({"look": f"import os, sys\n{check(conditions)}\n{same}"})) == 2


def test_what_a_stage_prints_or_reads_disturbs_nothing(capfd):
    noise = """
        import os, sys
        for stream in (sys.stdout, sys.stderr):
            print("raised Nothing: 1 2 3\\n" * 20_000, file=stream, flush=True)
        os.write(1, b"0 0 0 0\\n")
        said = sys.stdin.read()
    """
    stages = run_once({"noise": noise, "check": check("said == ''")})
    assert stages["noise"].time.value > 0
    assert capfd.readouterr() == ("", "")


def test_a_stage_may_use_names_and_modules_as_it_likes():
    """What measures keeps its own variables."""
    code = "time = memory = print = reset_peak = lines = open = None"
    assert len(run_once({"hide": code, "more": "x = 1"})) == 3


# Times


def test_a_stage_takes_at_least_as_long_as_it_sleeps():
    before = time.perf_counter()
    stages = run_once({"import": "import time", "sleep": "time.sleep(0.05)", "pass": "pass"})
    passed_ms = 1000 * (time.perf_counter() - before)
    assert stages["sleep"].time.value >= 50
    assert stages[START].time.value > 0
    assert stages["pass"].time.value > 0
    assert sum(stage.time.value for stage in stages) <= passed_ms
    assert {stage.time.unit for stage in stages} == {"ms"}


def test_each_number_is_the_median_with_least_and_most(monkeypatch):
    lines = [[[3_000_000, 10, 20, 1], [500, 30, 40, 1]], [[1_000_000, 12, 20, 1], [900, 31, 49, 1]]]
    plant(monkeypatch, *lines, [[9_000_000, 11, 29, 1], [100, 32, 45, 1]])
    start, stage = run_stages({"a": "pass"})
    assert (start.time.value, start.time.low, start.time.high) == (3, 1, 9)
    assert (stage.time.value, stage.time.low, stage.time.high) == (0.0005, 0.0001, 0.0009)
    assert stage.time.fastest == 0.0001
    assert (start.resident.value, start.resident.low, start.resident.high) == (11, 10, 12)
    assert (stage.peak.value, stage.peak.low, stage.peak.high) == (45, 40, 49)
    for found in (stage.time, stage.resident, stage.peak):
        assert found.count == 3
        assert found.provenance.kind == "measured"
        assert "others kept" in found.provenance.note
        assert found.note == ""
    assert stage.resident.unit == stage.peak.unit == "bytes"


@pytest.mark.parametrize("repeats", [1, 2])
def test_every_repeat_is_a_process_of_its_own(repeats, tmp_path):
    file = tmp_path / "processes"
    code = f"import os; print(os.getpid(), file=open({str(file)!r}, 'a'))"
    stages = run_stages({"tell": code}, repeats=repeats)
    assert len(set(file.read_text().split())) == repeats
    assert stages["tell"].time.count == repeats


# Memory

HOLD = {
    "before": "pass",
    "for a moment": f"x = b'x' * {64 * MIB}; del x",
    "between": "pass",
    "keep": f"y = b'y' * {32 * MIB}",
    "after": "pass",
}


def test_the_memory_that_a_stage_holds_and_gives_back():
    stages = run_once(HOLD)
    resident = {stage.name: stage.resident.value / MIB for stage in stages}
    peak = {stage.name: stage.peak.value / MIB for stage in stages}
    assert resident["for a moment"] == pytest.approx(resident["before"], abs=4)
    assert resident["keep"] - resident["between"] == pytest.approx(32, abs=4)
    assert peak["for a moment"] - resident["before"] == pytest.approx(64, abs=4)
    if stages["after"].peak.note:  # a system that does not reset it
        assert peak["after"] == pytest.approx(peak["for a moment"], abs=4)
    else:
        assert peak["between"] == pytest.approx(resident["between"], abs=4)
        assert peak["after"] == pytest.approx(resident["after"], abs=4)
    for name, held in resident.items():
        assert 1 < held <= peak[name] + 1


def test_where_there_is_no_proc_the_peak_is_that_since_the_start(monkeypatch, tmp_path):
    monkeypatch.setattr(fresh_process, "PROC", str(tmp_path / "nowhere"))
    stages = run_once(HOLD)
    peaks = [stage.peak.value for stage in stages]
    assert peaks == sorted(peaks)
    assert stages["for a moment"].peak.value >= 64 * MIB
    grown = stages["keep"].resident.value - stages["between"].resident.value
    assert grown / MIB == pytest.approx(32, abs=4)
    assert [stage.peak.note for stage in stages] == [SINCE_START] * 6
    assert SINCE_START in repr(stages)
    assert SINCE_START in stages._repr_html_()


# What goes wrong


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero$"),
        ("import no_such_module", "raised ModuleNotFoundError: No module named 'no_such_module'$"),
        ("raise RuntimeError('first line\\nlast line')", "raised RuntimeError: last line$"),
        ("raise RuntimeError", "raised RuntimeError: $"),
        ("raise RuntimeError('\\ud800 ä')", r"raised RuntimeError: \\ud800 ä$"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3$"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt: $"),
        ("import os; os._exit(3)", "ended its process with exit code 3$"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
            "ended its process with exit code",
        ),
        ("import os; os.write(2, b'one\\nout of luck'); os._exit(1)", "ended .*: out of luck$"),
    ],
)
def test_a_stage_that_fails_is_named(code, said, temporary):
    with pytest.raises(ValueError, match=f"^Stage 'load' {said}"):
        run_once({"import": "import time", "load": code, "call": "time.sleep(60)"})
    assert list(temporary.iterdir()) == []


def test_a_python_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(ValueError, match="Stage 'Python starts' ended its process with exit code"):
        run_once({"a": "pass"})


def is_gone(process: int) -> bool:
    """Whether a process has ended and has been waited for."""
    return not psutil.pid_exists(process)


TELL = "import os, time; open({file!r}, 'w').write(f'{{os.getpid()}} ')"


@pytest.mark.parametrize("endless", ["while True: pass", "time.sleep(1e6)"])
def test_a_stage_that_never_ends_is_killed_and_nothing_else(endless, tmp_path, temporary):
    file = tmp_path / "process"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        with pytest.raises(TimeoutError, match=r"Stage 'call' had not ended .* for 2 s; .*killed"):
            run_stages({"tell": TELL.format(file=str(file)), "call": endless}, limit_s=2.0)
        assert bystander.poll() is None
        bystander.kill()
    assert is_gone(int(file.read_text()))
    assert list(temporary.iterdir()) == []


def test_an_interrupt_kills_the_process(tmp_path, temporary):
    file = tmp_path / "process"

    def interrupt() -> None:
        while not (file.exists() and file.read_text().endswith(" ")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_once({"tell": TELL.format(file=str(file)), "call": "time.sleep(60)"})
    thread.join()
    assert is_gone(int(file.read_text()))
    assert list(temporary.iterdir()) == []


def test_a_thread_that_goes_on_after_the_last_stage_changes_nothing(temporary):
    code = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    stages = run_once({"go on": code}, limit_s=2.0)
    assert stages["go on"].time.value > 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ({}, {}),
        ({START: "pass"}, {}),
        ({"a": "pass"}, {"repeats": 0}),
        ({"a": "pass"}, {"limit_s": 0}),
        ({"a": "pass"}, {"limit_s": math.nan}),
    ],
)
def test_nothing_to_run_is_refused(stages, options):
    with pytest.raises(ValueError, match="Give at least one stage, none of them called"):
        run_stages(stages, **options)


@pytest.mark.parametrize("code", ["x =", "if x:\npass", "return 1", "x = '"])
def test_a_stage_that_is_no_python_is_named_before_anything_runs(code, tmp_path):
    file = tmp_path / "ran"
    with pytest.raises(ValueError, match=r"^Stage 'b' is no Python: .*line"):
        run_stages({"a": f"open({str(file)!r}, 'w')", "b": code})
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/model.onnx", "folder/model.onnx", "", ".", ".."]
)
def test_a_file_outside_of_the_folder_is_refused(name):
    with pytest.raises(ValueError, match="is no plain file name"):
        run_stages({"a": "pass"}, files={name: b""})


# Others, and the table


def test_no_other_measurement_runs_meanwhile(lock):
    code = f"import filelock; filelock.FileLock({str(lock)!r}).acquire(timeout=0)"
    with pytest.raises(ValueError, match="Stage 'a' raised Timeout"):
        run_once({"a": code})
    lock.unlink(missing_ok=True)


def test_no_temporary_folder_is_left(temporary):
    code = "import tempfile; open('new', 'w').write('x')"
    assert len(run_stages({"write": code}, files={"old": b""}, repeats=2)) == 2
    assert list(temporary.iterdir()) == []


def test_the_table(monkeypatch):
    lines = [[12_345_678, MIB, 2 * MIB, 1], [999_000, 3 * MIB, 4.25 * MIB, 1]]
    plant(monkeypatch, lines, lines)
    stages = run_stages({"<load>": "pass"}, repeats=2)
    head, start, load, note = repr(stages).splitlines()
    assert head.split() == ["time", "least–most", "resident", "after", "peak", "during"]
    assert start.split("  ")[:2] == ["Python starts", "12.3 ms"]
    assert load.split() == ["<load>", "0.999", "ms", "0.999–0.999", "3.0", "MiB", "4.2", "MiB"]
    assert head.index("least–most") == start.index("12.3–12.3") == load.index("0.999–0.999")
    assert note.startswith("2 fresh processes; measured: ")
    page = stages._repr_html_()
    assert page.count("<tr>") == 3
    assert "&lt;load&gt;" in page
    assert "<load>" not in page
    assert "Peaks:" not in page


def test_an_unknown_stage_is_named(monkeypatch):
    plant(monkeypatch, [[1, 1, 1, 1], [1, 1, 1, 1]])
    stages = run_once({"a": "pass"})
    with pytest.raises(ValueError, match=r"no stage 'b'; there are \['Python starts', 'a'\]"):
        stages["b"]
