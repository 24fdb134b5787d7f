"""The lock for timing: one measurement at a time on a machine, whatever happens to the others."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from course_utils.measure import timing_lock as locking
from course_utils.measure.timing_lock import timing_lock

REAL_LOCK_FILE = locking.lock_file  # each test has one of its own
# What another notebook does: it says when it holds the lock, and gives it back when it is told to.
HOLD = """
import pathlib, sys, time
from course_utils.measure import timing_lock as locking
file, patience_s = pathlib.Path(sys.argv[1]), float(sys.argv[2])
locking.lock_file = lambda: file
locking.QUIET_S = 0.05
with locking.timing_lock(patience_s, tell=lambda _: print("waits", flush=True)):
    begun = time.monotonic()
    print("holds", flush=True)
    sys.stdin.readline()
    print([begun, time.monotonic()], flush=True)
"""

# What notebooks do that measure one thing after the other.
MEASURE = """
import pathlib, sys, time
from course_utils.measure import timing_lock as locking
file = pathlib.Path(sys.argv[1])
locking.lock_file = lambda: file
for _ in range(4):
    with locking.timing_lock(tell=lambda _: None):
        begun = time.monotonic()
        time.sleep(0.02)
        print([begun, time.monotonic()])
    time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def soon_told(monkeypatch):
    monkeypatch.setattr(locking, "QUIET_S", 0.05)


class Other:
    """Another process that wants the lock."""

    def __init__(self, patience_s: float = 600.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(locking.lock_file()), str(patience_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        return self.process.stdout.readline().strip()

    def give_back(self) -> list[float]:
        """Let it give the lock back; return from when to when it held it."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.says())

    def interrupt(self) -> str:
        """Press Ctrl-C; return what it complains about."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> str:
        _, complaints = self.process.communicate()
        return complaints


@pytest.fixture
def start_other():
    """Return a function that starts another process; all of them are ended after the test."""
    started = []

    def start_other(*given) -> Other:
        started.append(Other(*given))
        return started[-1]

    yield start_other
    for other in started:
        other.process.kill()
        other.process.communicate()


def is_free() -> bool:
    lock = FileLock(locking.lock_file())
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def interrupt(_: object) -> None:
    """Do what Ctrl-C does while the message is on the screen."""
    raise KeyboardInterrupt


def test_the_lock_is_held_inside_and_free_afterwards():
    assert is_free()
    with timing_lock():
        assert not is_free()
    assert is_free()


def test_one_who_does_not_wait_is_told_nothing():
    told = []
    with timing_lock(tell=told.append):
        pass
    assert told == []


def test_it_is_free_after_an_exception():
    with pytest.raises(ZeroDivisionError), timing_lock():
        _ = 1 / 0
    assert is_free()


def test_all_who_measure_on_this_machine_lock_the_same_file(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/somewhere/else")
    monkeypatch.setenv("INFERENCE_MEASURED_DATA", "/somewhere/else")
    file = REAL_LOCK_FILE()
    assert file.is_absolute()
    assert file.parent.is_dir()
    assert "else" not in str(file)


# Two who want it


def test_two_processes_never_hold_it_at_once():
    command = [sys.executable, "-c", MEASURE, str(locking.lock_file())]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    held = sorted(json.loads(line) for line in lines)
    assert len(held) == 3 * 4
    for (_, ended), (begun, _) in itertools.pairwise(held):
        assert ended <= begun


def test_while_another_process_holds_it_one_waits_and_says_so(start_other):
    other = start_other()
    assert other.says() == "holds"
    told = []

    def tell(message):
        assert not told
        told.extend([message, other.give_back()])

    with timing_lock(patience_s=120, tell=tell):
        begun = time.monotonic()
    message, (_, ended) = told
    assert ended <= begun
    assert message.startswith("Another measurement is running on this machine.")
    assert "for 2 minutes at most" in message


def test_another_thread_of_the_same_process_waits_too():
    order = []
    holds, is_told = threading.Event(), threading.Event()

    def hold_second():
        holds.wait()
        with timing_lock(tell=lambda _: is_told.set()):
            order.append("second")

    second = threading.Thread(target=hold_second)
    second.start()
    with timing_lock():
        holds.set()
        assert is_told.wait(60)
        order.append("first")
    second.join()
    assert order == ["first", "second"]
    assert is_free()


def test_when_the_patience_is_over_it_says_what_to_do(start_other):
    other = start_other()
    assert other.says() == "holds"
    told = []
    advice = r"kept this machine for 0 s\. Close the notebooks that you don't need, or try again"
    with (
        pytest.raises(TimeoutError, match=advice) as error,
        timing_lock(patience_s=0.2, tell=told.append),
    ):
        pytest.fail("two hold the lock")
    assert len(told) == 1
    assert error.value.__suppress_context__  # the learner sees no traceback into a library
    begun, ended = other.give_back()
    assert begun < ended
    other.end()
    assert is_free()


def test_one_without_patience_asks_once(start_other):
    other = start_other()
    assert other.says() == "holds"
    with pytest.raises(TimeoutError), timing_lock(patience_s=0, tell=lambda _: None):
        pytest.fail("two hold the lock")


# Holders and waiters that end


def test_it_is_freed_when_its_holder_is_killed(start_other):
    other = start_other()
    assert other.says() == "holds"
    assert not is_free()
    other.process.kill()
    other.end()
    with timing_lock(patience_s=60):
        assert not is_free()
    assert is_free()


def test_a_waiter_gets_it_when_the_holder_is_killed(start_other):
    other = start_other()
    assert other.says() == "holds"
    with timing_lock(tell=lambda _: other.process.kill()):
        assert not is_free()


def test_ctrl_c_in_a_process_that_waits_leaves_the_lock_to_its_holder(start_other):
    waiter = start_other
    with timing_lock():
        waiter = start_other()
        assert waiter.says() == "waits"
        assert "KeyboardInterrupt" in waiter.interrupt()
        assert not is_free()
    assert is_free()
    assert waiter.process.returncode != 0


def test_ctrl_c_in_a_process_that_holds_it_frees_it(start_other):
    holder = start_other()
    assert holder.says() == "holds"
    assert "KeyboardInterrupt" in holder.interrupt()
    assert is_free()


def test_ctrl_c_while_waiting_leaves_it_free_when_the_holder_is_done(start_other):
    other = start_other()
    assert other.says() == "holds"
    with pytest.raises(KeyboardInterrupt), timing_lock(tell=interrupt):
        pytest.fail("two hold the lock")
    other.give_back()
    other.end()
    assert is_free()


# A file that cannot be locked


def assert_goes_on_with_a_warning() -> None:
    with (
        pytest.warns(UserWarning, match=r"cannot be locked \(.+\): if another notebook measures"),
        timing_lock(),
    ):
        went_on = True
    assert went_on


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setattr(locking, "lock_file", lambda: tmp_path / "a file" / "timing.lock")
    assert_goes_on_with_a_warning()


def test_a_folder_in_place_of_the_file():
    locking.lock_file().mkdir()
    assert_goes_on_with_a_warning()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read")])
def test_a_file_that_the_system_refuses(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert_goes_on_with_a_warning()


def test_what_is_raised_inside_comes_out_though_the_file_cannot_be_locked():
    locking.lock_file().mkdir()
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(OSError, match="the disk is full"),
        timing_lock(),
    ):
        raise OSError("the disk is full")


def test_any_user_of_the_machine_may_lock_the_file():
    mask = os.umask(0o077)
    try:
        with timing_lock():
            mode = Path(locking.lock_file()).stat().st_mode
    finally:
        os.umask(mask)
    assert mode & 0o666 == 0o666
