"""Programs that disturb, to see what a measurement is worth beside them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from course_utils import machine
from course_utils.measure.timing_lock import timing_lock

BURSTS = """
import random, sys, time
random.seed(int(sys.argv[1]))
while True:
    end = time.perf_counter() + random.expovariate(5)
    while time.perf_counter() < end:
        sum(range(1000))
    time.sleep(random.expovariate(5))
"""


@contextmanager
def noisy_neighbours(count: int | None = None) -> Iterator[None]:
    """Run programs meanwhile that compute and sleep in turns, 0.2 s on average each.

    Other measurements on this machine wait until they are gone.

    Args:
        count: How many programs; None: one for each core.
    """
    if count is None:
        count = machine.describe().cores
    with timing_lock():
        programs = [
            subprocess.Popen([sys.executable, "-c", BURSTS, str(seed)]) for seed in range(count)
        ]
        try:
            yield
        finally:
            for program in programs:
                program.kill()
                program.wait()
