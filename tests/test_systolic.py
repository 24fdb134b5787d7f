"""The systolic array: against NumPy, against its own formula, and by hand, cycle by cycle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import systolic
from course_utils.systolic import count_cycles, multiply

NAN = np.nan
SMALL = st.integers(1, 6)
# By hand: the weights [[1, 2], [3, 4]] on 2 x 2 cells, and three rows of inputs.
INPUTS = np.array([[1, 10], [2, 20], [3, 30]])
WEIGHTS = np.array([[1, 2], [3, 4]])


def draw(m, k, n, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(-9, 10, (m, k)), random.integers(-9, 10, (k, n))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20), SMALL, SMALL, SMALL, SMALL, st.booleans())
def test_any_shape_gives_numpys_product_in_the_cycles_of_the_formula(m, k, n, rows, columns, hides):
    inputs, weights = draw(m, k, n)
    run = multiply(inputs, weights, rows, columns, hides_loading=hides, keeps_states=True)
    np.testing.assert_array_equal(run.product, inputs @ weights)
    assert run.cycles == count_cycles(m, k, n, rows, columns, hides_loading=hides)
    assert run.macs == run.busy.sum() == m * k * n
    assert run.busy.max() <= rows * columns
    assert len(run.states) == run.cycles
    for state, busy in zip(run.states, run.busy, strict=True):
        assert np.isfinite(state.sums).sum() == busy
        assert state.doing.startswith("computes") or busy == 0
        assert state.doing


@pytest.mark.parametrize("hides_loading", [False, True])
def test_fractions_agree_with_numpy_up_to_rounding(hides_loading):
    random = np.random.default_rng(0)
    inputs, weights = random.normal(size=(17, 70)), random.normal(size=(70, 33))
    run = multiply(inputs.astype(np.float32), weights, 16, 8, hides_loading=hides_loading)
    np.testing.assert_allclose(run.product, inputs.astype(np.float32) @ weights, atol=1e-12)


def test_zeros_are_numbers_like_others():
    """A weight or an input of 0 is multiplied all the same; only cells without one are idle."""
    run = multiply(np.zeros((3, 4)), np.zeros((4, 4)))
    assert run.busy.sum() == run.macs == 48


# By hand


def test_weights_move_down_a_row_each_cycle():
    states = multiply(INPUTS, WEIGHTS, 2, 2, keeps_states=True).states
    np.testing.assert_array_equal(states[0].waiting, [[3, 4], [NAN, NAN]])
    np.testing.assert_array_equal(states[1].waiting, [[1, 2], [3, 4]])
    assert [state.doing for state in states[:2]] == ["loads the weights of tile 1 of 1"] * 2


@pytest.mark.parametrize(
    ("cycle", "sums", "doing"),
    [
        (2, [[1, NAN], [NAN, NAN]], "row 1 of 3 enters"),
        (3, [[2, 2], [31, NAN]], "row 2 of 3 enters"),  # 1 + 10 x 3
        (4, [[3, 4], [62, 42]], "row 3 of 3 enters"),  # 2 + 20 x 3, 2 + 10 x 4
        (5, [[NAN, 6], [93, 84]], "no row enters"),
        (6, [[NAN, NAN], [NAN, 126]], "no row enters"),
    ],
)
def test_sums_move_down_as_inputs_move_right(cycle, sums, doing):
    run = multiply(INPUTS, WEIGHTS, 2, 2, keeps_states=True)
    np.testing.assert_array_equal(run.states[cycle].sums, sums)
    assert run.states[cycle].doing == f"computes tile 1 of 1, {doing}"
    assert run.busy.tolist() == [0, 0, 1, 3, 4, 3, 1]


def test_hidden_the_next_weights_follow_right_behind_the_first_inputs():
    """Each cell takes up its next weight when the first input for it comes, not before."""
    weights = np.hstack([WEIGHTS, 10 * WEIGHTS])
    run = multiply(INPUTS[:2], weights, 2, 2, hides_loading=True, keeps_states=True)
    first, second, third = run.states[2:5]
    np.testing.assert_array_equal(first.waiting, [[30, 2], [3, 4]])
    np.testing.assert_array_equal(second.waiting, [[10, 40], [30, 4]])
    assert (
        second.doing == "computes tile 1 of 2, row 2 of 2 enters; loads the weights of tile 2 of 2"
    )
    np.testing.assert_array_equal(third.weights, [[10, 2], [3, 4]])
    np.testing.assert_array_equal(third.sums, [[10, 4], [62, 42]])
    assert third.doing.startswith("computes tiles 1 and 2 of 2, row 1 of 2 enters")
    assert run.busy.tolist() == [0, 0, 1, 3, 4, 4, 3, 1]


def test_many_tiles_on_the_way_are_named_from_the_first_to_the_last():
    run = multiply(*draw(1, 1, 40), 1, 10, hides_loading=True, keeps_states=True)
    assert run.states[3].doing.startswith("computes tiles 1 to 3 of 4")


def test_cells_that_a_tile_leaves_unused_stay_idle():
    run = multiply(*draw(5, 2, 1), rows=3, columns=2, keeps_states=True)
    assert run.busy.max() == 2
    for state in run.states:
        assert np.isnan(state.sums[2]).all()
        assert np.isnan(state.sums[:, 1]).all()
        assert np.isnan(state.weights[2]).all()
        assert np.isnan(state.waiting[:, 1]).all()


# How much of the array is used


def test_loading_takes_a_cycle_for_each_row_of_cells():
    inputs, weights = draw(5, 8, 4)
    idle = multiply(inputs, weights, 4, 4).busy == 0
    np.testing.assert_array_equal(np.flatnonzero(idle), [0, 1, 2, 3, 15, 16, 17, 18])
    idle = multiply(inputs, weights, 4, 4, hides_loading=True).busy == 0
    np.testing.assert_array_equal(np.flatnonzero(idle), [0, 1, 2, 3])


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 7), (7, 2)])
def test_a_batch_of_one_uses_little(rows, columns):
    inputs, weights = draw(1, 3 * rows, 3 * columns)
    alone = multiply(inputs, weights, rows, columns).utilisation
    assert alone == pytest.approx(1 / (2 * rows + columns - 1))
    hidden = multiply(inputs, weights, rows, columns, hides_loading=True).utilisation
    assert alone < hidden < 1 / rows


def test_many_rows_and_hidden_loading_use_nearly_all():
    run = multiply(*draw(2000, 4, 8), hides_loading=True)
    assert 0.99 < run.utilisation < 1
    assert run.cycles == 4 + 2 * 2000 + 6  # the first load; the rows; the way through


@pytest.mark.parametrize(
    ("k", "n", "limit"), [(5, 4, 5 / 8), (4, 5, 5 / 8), (5, 5, 25 / 64), (1, 1, 1 / 16)]
)
def test_sizes_that_are_no_multiple_of_the_array_waste_the_rest(k, n, limit):
    run = multiply(*draw(1000, k, n), hides_loading=True)
    assert run.utilisation == pytest.approx(limit, rel=0.02)
    assert run.utilisation < limit


def test_hidden_a_tile_takes_as_long_as_its_inputs_or_its_weights():
    """On the 256 x 256 cells of the first TPU: up to 256 rows take the same time, 512 twice it."""

    def per_tile(m):
        two, one = (count_cycles(m, 256 * t, 256, 256, 256, hides_loading=True) for t in (2, 1))
        return two - one

    assert [per_tile(m) for m in (1, 255, 256, 257, 512)] == [256, 256, 256, 257, 512]


def test_hiding_saves_nothing_where_there_is_one_tile():
    assert count_cycles(9, 4, 4, 4, 4) == count_cycles(9, 4, 4, 4, 4, hides_loading=True) == 19


def test_a_run_says_what_it_took_and_keeps_states_only_if_asked():
    run = multiply(INPUTS, WEIGHTS, 2, 2)
    assert repr(run) == "7 cycles, 12 multiply-adds: 42.9% of what 4 cells can do"
    assert run.states == ()


def test_the_matrices_are_left_as_they_are():
    inputs, weights = draw(3, 5, 5)
    before = inputs.copy(), weights.copy()
    product = multiply(inputs, weights).product
    product[:] = 0
    np.testing.assert_array_equal(inputs, before[0])
    np.testing.assert_array_equal(weights, before[1])


# What is refused


@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        (
            np.ones((2, 3)),
            np.ones((2, 3)),
            r"\(2, 3\) and \(2, 3\) do not fit: given needs as many",
        ),
        (np.ones(3), np.ones((3, 3)), r"given has the shape \(3,\): give a matrix"),
        (np.ones((3, 3)), np.ones((3, 3, 3)), "weights has the shape"),
        (np.ones((0, 3)), np.ones((3, 3)), "at least one row and column"),
        (np.ones((3, 0)), np.ones((0, 3)), "at least one row and column"),
        (np.array([[NAN]]), np.ones((1, 1)), "given has to hold real numbers, all of them finite"),
        (np.ones((1, 1)), np.array([[np.inf]]), "weights has to hold real numbers"),
        (np.ones((1, 1)), np.array([["1"]]), "weights has to hold real numbers"),
        (np.array([[1j]]), np.ones((1, 1)), "given has to hold real numbers"),
    ],
)
def test_matrices_that_cannot_be_multiplied_are_refused(inputs, weights, message):
    with pytest.raises(ValueError, match=message):
        multiply(inputs, weights)


@pytest.mark.parametrize("size", [0, -1, 2.5, NAN])
@pytest.mark.parametrize("name", ["rows", "columns"])
def test_an_array_without_cells_is_refused(name, size):
    with pytest.raises(ValueError, match=f"{name}={size} has to be a whole number from 1 on"):
        multiply(INPUTS, WEIGHTS, **{name: size})


@pytest.mark.parametrize("name", ["m", "k", "n", "rows", "columns"])
def test_the_formula_refuses_sizes_below_one(name):
    with pytest.raises(ValueError, match=f"{name}=0 has to be"):
        count_cycles(**{**dict.fromkeys(["m", "k", "n", "rows", "columns"], 4), name: 0})


def test_numpys_whole_numbers_are_sizes_too():
    rows, columns = np.array([2, 2])
    assert multiply(INPUTS, WEIGHTS, rows, columns).cycles == 7
    assert count_cycles(3, 2, 2, rows, columns) == 7


def test_inputs_and_sums_move_one_cell_a_cycle_through_the_array_itself():
    """One input, weights of 1: a wave that is one cell wide goes along the diagonal."""
    array = systolic.SystolicArray(2, 3)
    for row in ([1, 1, 1], [1, 1, 1]):
        assert array.load(np.array(row, float)).all()
    assert not array.load(np.ones(3)).any()  # all cells have a weight
    nothing = np.full(2, systolic.EMPTY)
    leaving = [array.compute(np.array([5.0, 7.0]), True)]
    waves = [array.is_busy]
    for _ in range(3):
        leaving.append(array.compute(nothing, False))
        waves.append(array.is_busy)
    for cycle, wave in enumerate(waves):
        i, j = np.indices(wave.shape)
        np.testing.assert_array_equal(wave, i + j == cycle)
    np.testing.assert_array_equal(leaving[-1], [12, 12, 12])
