"""The load meter: it counts what other programs take of the machine, and nothing of its own."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from course_utils.measure import load
from course_utils.measure.load import LoadMeter

SPIN = "import time; end = time.time() + 60\nwhile time.time() < end: pass"


def system(**seconds):
    """Return times of a system, in the fields that Linux has."""
    fields = [
        "user",
        "nice",
        "system",
        "idle",
        "iowait",
        "irq",
        "softirq",
        "steal",
        "guest",
        "guest_nice",
    ]
    times = dict.fromkeys(fields, 0.0) | seconds
    return SimpleNamespace(_asdict=lambda: times)


def own(user=0.0, system=0.0, children_user=0.0, children_system=0.0):
    return SimpleNamespace(
        user=user, system=system, children_user=children_user, children_system=children_system
    )


@pytest.fixture
def count_cores(monkeypatch):
    """Return a function that says what the meter finds in 10 s of a planted machine."""

    def count_cores(before, after, own_before=None, own_after=None, child_after=None) -> float:
        moments = iter(
            [
                (0.0, before, own_before or own(), own()),
                (10.0, after, own_after or own(), child_after or own()),
            ]
        )
        now = {}

        def go_on():
            now["s"], now["system"], now["own"], now["child"] = next(moments)

        child = SimpleNamespace(cpu_times=lambda: now["child"])
        process = SimpleNamespace(
            cpu_times=lambda: now["own"], children=lambda recursive: [child] if recursive else []
        )
        with monkeypatch.context() as patch:
            patch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: now["s"]))
            patch.setattr(load.psutil, "cpu_times", lambda: now["system"])
            patch.setattr(load.psutil, "Process", lambda: process)
            go_on()
            meter = LoadMeter()
            go_on()
            return meter.cores_busy()

    return count_cores


def test_what_others_take_is_counted_in_cores(count_cores):
    before, after = system(user=100.0, idle=900.0), system(user=115.0, idle=905.0)
    assert count_cores(before, after) == pytest.approx(1.5)


@pytest.mark.parametrize("kind", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_every_kind_of_work_counts(count_cores, kind):
    assert count_cores(system(), system(**{kind: 4.0})) == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["idle", "iowait"])
def test_waiting_is_no_work(count_cores, kind):
    assert count_cores(system(), system(**{kind: 20.0})) == 0


def test_the_time_of_guests_is_not_counted_twice(count_cores):
    after = system(user=5.0, nice=3.0, guest=5.0, guest_nice=3.0)
    assert count_cores(system(), after) == pytest.approx(0.8)


@pytest.mark.parametrize("part", ["user", "system", "children_user", "children_system"])
def test_what_this_program_takes_does_not_count(count_cores, part):
    after = system(user=15.0)
    assert count_cores(system(), after, own(), own(**{part: 10.0})) == pytest.approx(0.5)
    grown = count_cores(system(), after, own(**{part: 90.0}), own(**{part: 100.0}))
    assert grown == pytest.approx(0.5)


def test_it_is_never_negative(count_cores):
    # the two clocks tick at different moments
    assert count_cores(system(user=7.0), system(user=8.0), own(), own(user=1.02)) == 0


def test_systems_with_fewer_fields_are_counted_too(count_cores):
    before, after = (
        SimpleNamespace(_asdict=lambda busy=busy: {"user": busy, "system": busy, "idle": 50.0})
        for busy in (1.0, 4.0)
    )
    assert count_cores(before, after) == pytest.approx(0.6)


def test_what_a_running_child_takes_does_not_count(count_cores):
    after = system(user=15.0)
    assert count_cores(system(), after, child_after=own(user=10.0)) == pytest.approx(0.5)


def test_a_busy_program_is_seen():
    """However many others there are: they can only add to it."""
    spin = f"[sys.executable, '-c', {SPIN!r}], stdout=subprocess.DEVNULL"
    start = f"import subprocess, sys; print(subprocess.Popen({spin}).pid)"
    told = subprocess.check_output([sys.executable, "-c", start], text=True)  # no child of ours
    stranger = psutil.Process(int(told.split()[0]))
    try:
        meter = LoadMeter()
        time.sleep(1)
        found = meter.cores_busy()
    finally:
        stranger.kill()
    assert found > 0.3


def test_a_busy_thread_of_its_own_is_not_counted_as_others():
    """Beside what a second count of all programs says, whatever the others do meanwhile."""
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    before, own_before, begun = psutil.cpu_times(), time.process_time(), time.perf_counter()
    meter = LoadMeter()
    thread.start()
    time.sleep(1)
    others = meter.cores_busy()
    passed = time.perf_counter() - begun
    stop.set()
    thread.join()
    after, own_taken = psutil.cpu_times(), time.process_time() - own_before
    not_counted = {"idle", "iowait", "guest", "guest_nice", "interrupt", "dpc"}
    kinds = set(after._fields) - not_counted
    taken = sum(getattr(after, kind) - getattr(before, kind) for kind in kinds)
    assert own_taken > 0
    # the rest of the processor time is what it took itself; half of it leaves room for the ticks
    assert taken / passed - others >= 0.5 * own_taken / passed


def test_it_is_told_in_words(monkeypatch):
    meter = LoadMeter()
    monkeypatch.setattr(meter, "cores_busy", lambda: 0.42)
    monkeypatch.setattr(load.psutil, "cpu_count", lambda: 8)
    assert meter.describe() == "others kept 0.4 of 8 cores busy"
