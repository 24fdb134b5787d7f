"""One measurement of time at once on a machine: two that run together time each other."""

import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE_S = 600.0
QUIET_S = 1.0  # a wait shorter than this is not worth a message


def lock_file() -> Path:
    """Return the file that all who time on this machine lock, whoever they are."""
    folder = Path("/tmp") if os.name == "posix" else Path(tempfile.gettempdir())
    return folder / "inference-measured.lock"


_held = threading.local()  # by this thread: then what it does is no other measurement


@contextmanager
def timing_lock(
    patience_s: float = PATIENCE_S, tell: Callable[[str], object] = print
) -> Iterator[None]:
    """Hold the machine-wide lock, so that no other measurement of this course runs meanwhile.

    The system frees the lock of a program that dies. Where the file cannot be locked at all, a
    warning says so and the measurement goes on.

    Args:
        patience_s: Seconds to wait for the others.
        tell: Gets the message that it waits.

    Raises:
        TimeoutError: The others took longer than that.
    """
    if getattr(_held, "is_so", False):
        yield
        return
    lock = _acquire(patience_s, tell)
    _held.is_so = True
    try:
        yield
    finally:
        _held.is_so = False
        lock.release()


def _acquire(patience_s: float, tell: Callable[[str], object]) -> FileLock:
    lock = FileLock(lock_file(), mode=0o666)
    try:
        try:
            lock.acquire(timeout=min(QUIET_S, patience_s))
        except Timeout:
            tell(
                "Another measurement is running on this machine. This one waits its turn, for"
                f" {patience_s / 60:.3g} minutes at most."
            )
            lock.acquire(timeout=max(patience_s - QUIET_S, 0))
    except Timeout:
        raise TimeoutError(
            f"Other measurements kept this machine for {patience_s:.0f} s. Close the notebooks that"
            " you don't need, or try again when they are done; what was measured is kept."
        ) from None
    except OSError as error:
        warnings.warn(
            f"{lock.lock_file} cannot be locked ({error.strerror}): if another notebook measures"
            " now, the two disturb each other.",
            stacklevel=5,
        )
    return lock
