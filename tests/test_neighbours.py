"""Noisy neighbours: there while they are wanted, and gone afterwards."""

import psutil
import pytest

from course_utils import machine
from course_utils.measure import noisy_neighbours


def programs() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "expovariate" in " ".join(one.cmdline())]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_so_many_programs_run_meanwhile_and_none_after(count):
    with noisy_neighbours(count):
        assert len(programs()) == count
    assert programs() == []


def test_without_a_number_there_is_one_for_each_core():
    with noisy_neighbours():
        assert len(programs()) == machine.describe().cores


def test_they_go_after_an_error_too():
    with pytest.raises(KeyError), noisy_neighbours(2):
        raise KeyError
    assert programs() == []


def test_they_compute():
    with noisy_neighbours(1):
        (program,) = programs()
        while program.cpu_times().user < 0.05:
            assert program.is_running()
