"""Matrices with many zeros, stored without them: three formats, each with its real bytes.

A tensor that is half zeros takes as many bytes as any other. To save bytes, the zeros have to be
left out and their places written down, and those cost bytes as well: an index for each value
(compressed sparse rows, CSR), a bit for each place (a mask), or two bits for each value where two
of any four in a row are zeros (2:4; Mishra et al., 2021, arXiv 2104.08378, section 3.1).

The weights of a convolution are seen as a matrix: a row for each output channel, and in it
``channels_in * height * width`` values. A zero is a zero whatever its sign, and comes back as +0.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

HEADER = struct.Struct("<III")  # rows, inputs, values that are stored
VALUE_BYTES = 4  # float32
GROUP, KEPT = 4, 2  # of 2:4


@dataclass(frozen=True)
class SparseMatrix:
    """What all formats have in common.

    Attributes:
        shape: Rows and inputs of the matrix.
        values: (stored values,) float32, row by row.
    """

    shape: tuple[int, int]
    values: np.ndarray
    name: ClassVar[str]

    @classmethod
    def from_dense(cls, matrix: Tensor) -> Self:
        """Return the matrix in this format.

        Raises:
            ValueError: It is no (rows, inputs) of finite float32, or not 2:4 where it has to be.
        """
        return cls._from_array(_check_matrix(matrix))

    @classmethod
    def _from_array(cls, matrix: np.ndarray) -> Self:
        raise NotImplementedError

    def to_dense(self) -> Tensor:
        """Return the matrix with its zeros: (rows, inputs) float32."""
        dense = np.zeros(self.shape, np.float32)
        dense[self._places()] = self.values
        return torch.from_numpy(dense)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of each stored value."""
        raise NotImplementedError

    def _index_parts(self) -> list[np.ndarray]:
        """Return what tells the places, in the order in which it is packed."""
        raise NotImplementedError

    def pack(self) -> bytes:
        """Return all that is needed to have the matrix back: shape, places and values."""
        header = HEADER.pack(*self.shape, len(self.values))
        parts = [*self._index_parts(), self.values.astype("<f4", copy=False)]
        return header + b"".join(part.tobytes() for part in parts)

    @property
    def size_bytes(self) -> int:
        """Length of what is packed."""
        return len(self.pack())

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Return the matrix that was packed.

        Raises:
            ValueError: The bytes are not of this format, or not complete.
        """
        if len(content) < HEADER.size:
            raise ValueError(f"{len(content)} bytes are no packed matrix.")
        rows, inputs, count = HEADER.unpack_from(content)
        if len(content) != cls.count_bytes(rows, inputs, count):
            raise ValueError(
                f"{len(content)} bytes are no {cls.name} matrix of {rows}×{inputs} with {count}"
                f" stored values: that has {cls.count_bytes(rows, inputs, count)}."
            )
        values = np.frombuffer(content, "<f4", count, len(content) - VALUE_BYTES * count)
        index = content[HEADER.size : len(content) - VALUE_BYTES * count]
        try:
            unpacked = cls._from_index((rows, inputs), values.astype(np.float32), index)
            unpacked.to_dense()
        except (IndexError, ValueError) as error:
            raise ValueError(f"This {cls.name} matrix is damaged: {error}.") from None
        return unpacked

    @classmethod
    def _from_index(cls, shape: tuple[int, int], values: np.ndarray, index: bytes) -> Self:
        raise NotImplementedError

    @classmethod
    def count_bytes(cls, rows: int, inputs: int, values: int) -> int:
        """Return by formula how many bytes a matrix with so many stored values takes."""
        raise NotImplementedError


@dataclass(frozen=True)
class CompressedRows(SparseMatrix):
    """Compressed sparse rows (CSR): the column of each value, and where each row begins.

    Attributes:
        row_pointers: (rows + 1,), the values of row i are those from the i-th of these to the
            next; of the smallest unsigned type that holds them.
        columns: (stored values,), likewise.
    """

    row_pointers: np.ndarray
    columns: np.ndarray
    name: ClassVar[str] = "csr"

    @classmethod
    def _from_array(cls, matrix: np.ndarray) -> Self:
        rows, columns = matrix.nonzero()
        counts = np.bincount(rows, minlength=len(matrix))
        pointers = np.concatenate([[0], np.cumsum(counts)])  # (rows + 1,)
        return cls(
            matrix.shape,
            matrix[rows, columns],
            pointers.astype(find_index_type(len(columns))),
            columns.astype(find_index_type(matrix.shape[1] - 1)),
        )

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pointers = self.row_pointers.astype(np.int64)
        counts = pointers[1:] - pointers[:-1]  # (rows,)
        return np.repeat(np.arange(self.shape[0]), counts), self.columns

    def _index_parts(self) -> list[np.ndarray]:
        return [self.row_pointers, self.columns]

    @classmethod
    def _from_index(cls, shape: tuple[int, int], values: np.ndarray, index: bytes) -> Self:
        rows, inputs = shape
        pointers = np.frombuffer(index, find_index_type(len(values)), rows + 1)
        columns = np.frombuffer(index, find_index_type(inputs - 1), offset=pointers.nbytes)
        if pointers[0] != 0 or pointers[-1] != len(values):
            raise ValueError("its rows do not hold all values")
        return cls(shape, values, pointers, columns)

    @classmethod
    def count_bytes(cls, rows: int, inputs: int, values: int) -> int:
        """Return 12 + (rows + 1) * pointer + values * (index + 4) bytes."""
        pointer, index = (find_index_type(most).itemsize for most in (values, inputs - 1))
        return HEADER.size + (rows + 1) * pointer + values * (index + VALUE_BYTES)


@dataclass(frozen=True)
class MaskedValues(SparseMatrix):
    """A bit for each place of the matrix, and the values where it is 1.

    Attributes:
        mask: (rows, inputs) bool.
    """

    mask: np.ndarray
    name: ClassVar[str] = "mask"

    @classmethod
    def _from_array(cls, matrix: np.ndarray) -> Self:
        mask = matrix != 0
        return cls(matrix.shape, matrix[mask], mask)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = self.mask.nonzero()
        return rows, columns

    def _index_parts(self) -> list[np.ndarray]:
        return [np.packbits(self.mask)]

    @classmethod
    def _from_index(cls, shape: tuple[int, int], values: np.ndarray, index: bytes) -> Self:
        bits = np.unpackbits(np.frombuffer(index, np.uint8), count=shape[0] * shape[1])
        return cls(shape, values, bits.astype(bool).reshape(shape))

    @classmethod
    def count_bytes(cls, rows: int, inputs: int, values: int) -> int:
        """Return 12 + (rows * inputs) / 8 + values * 4 bytes."""
        return HEADER.size + -(-rows * inputs // 8) + VALUE_BYTES * values


@dataclass(frozen=True)
class TwoOfFour(SparseMatrix):
    """Two values of each four in a row, and two bits for the place of each among the four.

    Of four with less than two values zeros are stored too, so that every four take as much: that
    lets hardware find them without looking. It has as many bytes as a mask, or more.

    Attributes:
        positions: (stored values,) uint8, 0 to 3, rising in each pair.
    """

    positions: np.ndarray
    name: ClassVar[str] = "2:4"

    @classmethod
    def _from_array(cls, matrix: np.ndarray) -> Self:
        problem = explain_not_2_of_4(matrix)
        if problem:
            raise ValueError(problem)
        groups = matrix.reshape(-1, GROUP)
        # a stable sort puts the places of values before those of zeros, each in order
        kept = np.argsort(groups == 0, axis=1, kind="stable")[:, :KEPT]  # (groups, 2)
        kept = np.sort(kept, axis=1)
        values = np.take_along_axis(groups, kept, axis=1)
        return cls(matrix.shape, values.ravel() + 0.0, kept.ravel().astype(np.uint8))

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        starts = np.repeat(np.arange(self.shape[0] * self.shape[1] // GROUP), KEPT) * GROUP
        rows, columns = np.divmod(starts + self.positions, max(self.shape[1], 1))
        return rows, columns

    def _index_parts(self) -> list[np.ndarray]:
        padded = np.pad(self.positions, (0, -len(self.positions) % 4)).reshape(-1, 4)
        packed: np.ndarray = (padded << np.array([0, 2, 4, 6])).sum(axis=1).astype(np.uint8)
        return [packed]

    @classmethod
    def _from_index(cls, shape: tuple[int, int], values: np.ndarray, index: bytes) -> Self:
        packed = np.frombuffer(index, np.uint8)[:, None]  # four positions in a byte
        positions = ((packed >> np.array([0, 2, 4, 6], np.uint8)) & 3).ravel()[: len(values)]
        if (positions[0::2] >= positions[1::2]).any():
            raise ValueError("a pair of its values has no two places")
        return cls(shape, values, positions)

    @classmethod
    def count_bytes(cls, rows: int, inputs: int, values: int) -> int:
        """Return 12 + values / 4 + values * 4 bytes; half of all are stored, zeros or not."""
        return HEADER.size + -(-values // 4) + VALUE_BYTES * values


def explain_not_2_of_4(matrix: np.ndarray) -> str:
    """Say why a matrix is not 2:4, naming the first four that break it; empty if it is."""
    rows, inputs = matrix.shape
    if inputs % GROUP:
        return (
            f"Rows of {inputs} values do not divide into fours; 2:4 needs a multiple of {GROUP}."
            " Keep this matrix dense."
        )
    counts = np.count_nonzero(matrix.reshape(rows, -1, GROUP), axis=2)  # (rows, groups)
    broken = np.argwhere(counts > KEPT)
    if not len(broken):
        return ""
    row, group = map(int, broken[0])
    first = group * GROUP
    return (
        f"This matrix is not 2:4: row {row} has {counts[row, group]} values that are not 0 in"
        f" columns {first} to {first + GROUP - 1}, and may have {KEPT}. Prune it with"
        " prune.prune_n_of_m first."
    )


def find_index_type(largest: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned type, little-endian, that holds 0 to ``largest``."""
    for name in ("<u1", "<u2", "<u4"):
        if largest <= np.iinfo(name).max:
            return np.dtype(name)
    raise ValueError(f"An index up to {largest:,} does not fit into 32 bits.")


def csr_break_even_sparsity(rows: int, inputs: int) -> float | None:
    """Return the least share of zeros at which CSR is smaller than dense; None: at none.

    Computed: for pointers of each width, the most values for which ``CompressedRows.count_bytes``
    stays below ``4 * rows * inputs``. Indices of one byte make it about a fifth of zeros, of two
    bytes a third, of four half, and the pointers a little more.
    """
    dense_bytes = VALUE_BYTES * rows * inputs
    index = find_index_type(inputs - 1).itemsize
    most = -1
    for pointer in (1, 2, 4):
        room = dense_bytes - 1 - HEADER.size - (rows + 1) * pointer
        fitting = min(room // (index + VALUE_BYTES), 2 ** (8 * pointer) - 1)
        most = max(most, fitting)
    return None if most < 0 else 1 - most / (rows * inputs)


def _check_matrix(matrix: Tensor) -> np.ndarray:
    if matrix.ndim != 2 or matrix.dtype != torch.float32 or not matrix.numel():
        raise ValueError(
            f"A matrix (rows, inputs) of float32 is wanted, not {matrix.dtype} of shape"
            f" {tuple(matrix.shape)}; weights of a convolution become one by .flatten(1)."
        )
    if not torch.isfinite(matrix).all():
        raise ValueError("There are NaN or infinite values in this matrix; it cannot be stored.")
    return matrix.detach().cpu().numpy()
