"""How busy other programs keep the machine while something is measured."""

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
    # Linux counts a guest's time as "user" too
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(seconds for name, seconds in times.items() if name not in idle))


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
