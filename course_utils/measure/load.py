"""How busy other programs keep the machine while something is measured."""

import contextlib
import time

import psutil


class LoadMeter:
    """Counts the processor time that others take from when it is made.

    Others are all programs of this machine but this one and those it started, and, on a
    virtual machine, its neighbours ("steal").
    """

    def __init__(self) -> None:
        """Start counting."""
        self._start = time.perf_counter()
        self._all, self._own = _busy_seconds(), _own_seconds()

    def cores_busy(self) -> float:
        """Return how many cores others kept busy, on average, since the start."""
        passed = time.perf_counter() - self._start
        others = _busy_seconds() - self._all - (_own_seconds() - self._own)
        return max(0.0, others / passed)

    def describe(self) -> str:
        """Return it in words."""
        return f"others kept {self.cores_busy():.1f} of {psutil.cpu_count()} cores busy"


def _busy_seconds() -> float:
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time as "user" too, Windows interrupts as "system"
    left_out = ("idle", "iowait", "guest", "guest_nice", "interrupt", "dpc")
    return float(sum(seconds for name, seconds in times.items() if name not in left_out))


def _own_seconds() -> float:
    """Return the processor time of this process, of those it started, and of those that ended."""
    own = psutil.Process()
    seconds = own.cpu_times().children_user + own.cpu_times().children_system
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended just now
            seconds += process.cpu_times().user + process.cpu_times().system
    return float(seconds)
