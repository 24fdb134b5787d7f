"""A systolic array, cycle by cycle: how a TPU multiplies matrices, small enough to step through.

A grid of cells. Each holds one weight and does one multiply-add a cycle: it takes an input from the
left and a sum from above, and hands the input on to the right and the sum, plus input × weight,
down. An input is fetched once for all columns, a weight once for all inputs (Kung and Leiserson,
1979; with weights that stay, as here, in the TPU: Jouppi et al., 2017, arXiv 1704.04760).

Two things keep cells idle. *The shape of the weights*: where k or n is no multiple of the array's
rows or columns, tiles at the edge fill a part of it only. *Few rows of inputs*: the array fills and
drains along its diagonal, for rows + columns - 2 cycles, and loading a tile of weights takes as
many cycles as there are rows. A batch of 1 makes use of at most 1 / (2 rows + columns - 1) of what
the cells can do. If loading is hidden behind computing, m inputs make use of at most m / rows: the
array waits for weights, as a processor below the ridge of its roofline waits for memory.
"""

import math
from collections import deque
from dataclasses import dataclass
from numbers import Integral

import numpy as np

EMPTY = np.nan  # a register that holds nothing
PADDING = np.inf  # the weight of a cell that the tile leaves unused; real ones are finite


class SystolicArray:
    """All cells, a matrix (rows, columns) for each of their registers; all change once a cycle.

    Attributes:
        waiting: The weight that each cell will use next.
        weights: The weight that it uses now.
        inputs: What came from the left, and goes on to the right.
        switching: Whether that is of the first row for the next weights: the cell takes them up.
        sums: What it computed, which goes down.
        is_busy: Whether it did a multiply-add that counts.
    """

    def __init__(self, rows: int, columns: int) -> None:
        shape = rows, columns
        self.waiting = self.weights = self.inputs = np.full(shape, EMPTY)
        self.sums = np.zeros(shape)
        self.switching = self.is_busy = np.zeros(shape, bool)
        # Delays on the way in and out: element i of a row of inputs waits i cycles, so that it
        # meets the sum of the elements before it; element j of a product comes out j cycles late.
        self._entering = np.full((rows, rows), EMPTY)
        self._entering_switch = np.zeros((rows, rows), bool)
        self._leaving = np.zeros((columns, columns))

    def compute(self, row: np.ndarray, is_first: bool) -> np.ndarray:
        """Do one cycle of multiply-adds.

        Args:
            row: A row of inputs (rows,) that begins to enter, or EMPTY.
            is_first: It is the first for the waiting weights.

        Returns:
            The row of products (columns,) whose last element leaves: of the inputs that began to
            enter rows + columns - 2 cycles ago.
        """
        self._entering = _move_down(row, self._entering)
        self._entering_switch = _move_down(np.full_like(row, is_first, bool), self._entering_switch)
        self.inputs = _move_right(self._entering.diagonal(), self.inputs)
        self.switching = _move_right(self._entering_switch.diagonal(), self.switching)
        self.weights = np.where(self.switching, self.waiting, self.weights)
        self.waiting = np.where(self.switching, EMPTY, self.waiting)

        self.is_busy = np.isfinite(self.inputs) & np.isfinite(self.weights)
        products = np.zeros_like(self.sums)
        np.multiply(self.inputs, self.weights, out=products, where=self.is_busy)
        self.sums = _move_down(np.zeros_like(self.sums[0]), self.sums) + products
        self._leaving = _move_down(self.sums[-1], self._leaving)
        leaving: np.ndarray = self._leaving[::-1].diagonal()
        return leaving

    def load(self, row: np.ndarray) -> np.ndarray:
        """Let waiting weights move down, one cell a cycle, where a cell below is empty.

        Args:
            row: The next weight of each column (columns,), or EMPTY.

        Returns:
            Which columns took it: (columns,).
        """
        is_empty = np.isnan(self.waiting)
        has_room = np.logical_or.accumulate(is_empty[::-1])[::-1]  # here or below
        self.waiting = np.where(has_room, _move_down(row, self.waiting), self.waiting)
        took: np.ndarray = has_room[0] & ~np.isnan(row)
        return took


def _move_down(first: np.ndarray, registers: np.ndarray) -> np.ndarray:
    return np.vstack([first, registers[:-1]])


def _move_right(first: np.ndarray, registers: np.ndarray) -> np.ndarray:
    return np.column_stack([first, registers[:, :-1]])


@dataclass(frozen=True)
class State:
    """The array after one cycle; each array is (rows, columns), NaN where there is nothing.

    Attributes:
        sums: The partial sum of each cell that did a multiply-add.
        weights: What each cell multiplies by.
        waiting: The weights that are being loaded, or wait for their turn.
        doing: What happened in this cycle, in words.
    """

    sums: np.ndarray
    weights: np.ndarray
    waiting: np.ndarray
    doing: str


@dataclass(frozen=True, repr=False)
class Run:
    """A multiplication on the array.

    Attributes:
        product: (m, n).
        busy: How many cells did a multiply-add in each cycle: (cycles,). Their sum is ``macs``.
        macs: Multiply-adds, m × k × n.
        cells: How many the array has.
        states: Of each cycle, if they were asked for.
    """

    product: np.ndarray
    busy: np.ndarray
    macs: int
    cells: int
    states: tuple[State, ...] = ()

    @property
    def cycles(self) -> int:
        """From the first weight that is loaded to the last sum that leaves."""
        return len(self.busy)

    @property
    def utilisation(self) -> float:
        """Which share of what all cells could have done was done, 0 to 1."""
        return self.macs / (self.cycles * self.cells)

    def __repr__(self) -> str:
        return (
            f"{self.cycles:,} cycles, {self.macs:,} multiply-adds:"
            f" {self.utilisation:.1%} of what {self.cells:,} cells can do"
        )


def multiply(
    given: np.ndarray,
    weights: np.ndarray,
    rows: int = 4,
    columns: int = 4,
    *,
    hides_loading: bool = False,
    keeps_states: bool = False,
) -> Run:
    """Multiply two matrices on an array of rows × columns cells.

    The weights are cut into tiles that fit. Each is loaded, a row a cycle, then all rows of
    ``given`` stream through it, one a cycle; what tiles above each other yield is added up
    outside the array, as in a TPU's accumulators.

    Args:
        given: The inputs (m, k); m is the batch, or batch × pixels of a convolution.
        weights: (k, n).
        rows: Of cells.
        columns: Of cells.
        hides_loading: The next tile is loaded while this one computes, and its inputs follow
            without a gap. Else it waits until the array has drained.
        keeps_states: Keep the state of the array after each cycle.

    Returns:
        The product in float64, exact for whole numbers below 2**53, and what it took.

    Raises:
        ValueError: Shapes do not fit, a size is below 1, or a number is not finite.
    """
    given, weights = _check_matrix(given, "given"), _check_matrix(weights, "weights")
    (m, k), n = given.shape, weights.shape[1]
    if k != len(weights):
        raise ValueError(
            f"Shapes {given.shape} and {weights.shape} do not fit: given needs as many columns"
            " as weights has rows."
        )
    _check_sizes(rows=rows, columns=columns)
    rows, columns = int(rows), int(columns)  # NumPy's whole numbers are welcome
    given = np.pad(given, ((0, 0), (0, -k % rows)), constant_values=EMPTY)
    weights = np.pad(weights, ((0, -k % rows), (0, -n % columns)), constant_values=PADDING)
    # The corner of each tile; those whose products are added follow each other.
    tiles = [(top, left) for left in range(0, n, columns) for top in range(0, k, rows)]
    # Above the array wait the rows of all tiles, the last of a tile first: it goes furthest down.
    queue = np.vstack(
        [weights[top : top + rows, left : left + columns][::-1] for top, left in tiles]
    )
    array = SystolicArray(rows, columns)
    product = np.zeros((m, weights.shape[1]))
    busy: list[int] = []
    states: list[State] = []
    taken = np.zeros(columns, int)  # how much of the queue each column has
    entered = finished = 0  # rows of inputs, counted over all tiles
    on_the_way: deque[int | None] = deque([None] * (rows + columns - 1), rows + columns - 1)
    while finished < len(tiles) * m:
        # 1. A row of inputs begins to enter, if its weights are in the first column. Those of
        # other columns are there before it gets to them.
        tile, row = divmod(entered, m)
        enters = tile < len(tiles) and bool(taken[0] >= rows * (tile + 1))
        on_the_way.appendleft(entered if enters else None)
        entered += enters
        top = tiles[tile][0] if enters else 0
        arriving = given[row, top : top + rows] if enters else np.full(rows, EMPTY)
        # 2. Every cell computes.
        leaving = array.compute(arriving, enters and row == 0)
        # 3. Weights move down.
        may_load = len(queue) if hides_loading else rows * (finished // m + 1)
        above = queue[np.minimum(taken, len(queue) - 1), np.arange(columns)]
        loads = array.load(np.where(taken < may_load, above, EMPTY))
        # 4. A row of products is complete, and is added to those of the tiles above.
        oldest = on_the_way[-1]
        if oldest is not None:
            tile, row = divmod(oldest, m)
            left = tiles[tile][1]
            product[row, left : left + columns] += leaving
            finished += 1
        busy.append(int(array.is_busy.sum()))
        if keeps_states:
            doing = _describe(taken[loads] // rows, on_the_way, m, len(tiles))
            states.append(_keep_state(array, doing))
        taken += loads
    return Run(product[:, :n], np.array(busy), m * k * n, rows * columns, tuple(states))


def _describe(loaded: np.ndarray, on_the_way: deque[int | None], m: int, count: int) -> str:
    parts = []
    computed = [number // m for number in on_the_way if number is not None]
    newest = on_the_way[0]
    if computed:
        enters = "no row" if newest is None else f"row {newest % m + 1} of {m}"
        parts.append(f"computes {_name(computed, count)}, {enters} enters")
    if loaded.size:
        parts.append(f"loads the weights of {_name(loaded.tolist(), count)}")
    return "; ".join(parts)


def _name(tiles: list[int], count: int) -> str:
    first, last = min(tiles) + 1, max(tiles) + 1
    if first == last:
        return f"tile {first} of {count}"
    return f"tiles {first} {'and' if last == first + 1 else 'to'} {last} of {count}"


def _keep_state(array: SystolicArray, doing: str) -> State:
    return State(
        sums=np.where(array.is_busy, array.sums, EMPTY),
        weights=np.where(np.isfinite(array.weights), array.weights, EMPTY),
        waiting=np.where(np.isfinite(array.waiting), array.waiting, EMPTY),
        doing=doing,
    )


def count_cycles(
    m: int, k: int, n: int, rows: int, columns: int, *, hides_loading: bool = False
) -> int:
    """Return how many cycles ``multiply`` takes, by a formula, for arrays of any size.

    A row of inputs is on the way for rows + columns - 1 cycles. Not hidden, a tile takes
    2 rows + columns + m - 2, as in SCALE-Sim (Samajdar et al., 2020). Hidden, tiles follow each
    other after m cycles, or after ``rows`` where m is smaller: then the inputs wait for weights.

    Raises:
        ValueError: A size is below 1.
    """
    _check_sizes(m=m, k=k, n=n, rows=rows, columns=columns)
    tiles = math.ceil(k / rows) * math.ceil(n / columns)
    alone = rows + m + rows + columns - 2
    return alone + (tiles - 1) * max(m, rows) if hides_loading else tiles * alone


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name}={size} has to be a whole number from 1 on.")


def _check_matrix(values: np.ndarray, name: str) -> np.ndarray:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{name} has the shape {matrix.shape}: give a matrix of at least one row and column,"
            " e.g. images as rows with .reshape(len(images), -1)."
        )
    if matrix.dtype.kind not in "biuf" or not np.isfinite(matrix).all():
        raise ValueError(f"{name} has to hold real numbers, all of them finite.")
    return matrix.astype(float)
