"""Noisy neighbours: there while they are wanted, and gone afterwards."""

import time

import psutil
import pytest

from course_utils import machine
from course_utils.measure import noisy_neighbours


def programs() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "expovariate" in " ".join(one.cmdline())]


def wait_for(count: int) -> int:
    """Return how many there are, once there are so many, or after five seconds.

    A program that has just been started may not have its command line yet.
    """
    until = time.monotonic() + 5
    while len(programs()) != count and time.monotonic() < until:
        time.sleep(0.01)
    return len(programs())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_so_many_programs_run_meanwhile_and_none_after(count):
    with noisy_neighbours(count):
        assert wait_for(count) == count
    assert programs() == []


def test_without_a_number_there_is_one_for_each_core():
    with noisy_neighbours():
        cores = machine.describe().cores
        assert wait_for(cores) == cores


def test_they_go_after_an_error_too():
    with pytest.raises(KeyError), noisy_neighbours(2):
        raise KeyError
    assert programs() == []


def test_they_compute():
    with noisy_neighbours(1):
        assert wait_for(1) == 1
        (program,) = programs()
        while program.cpu_times().user < 0.05:
            assert program.is_running()
