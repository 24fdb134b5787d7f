"""A sparse matrix times a dense one, on the CPU, by the kernel that was the quickest here.

That is PyTorch's product of compressed sparse rows, which on most processors is Intel's MKL. Its
indices are taken as 32-bit integers: MKL wants those, and others are turned in every call. For a
single column it has a quicker kernel, of a matrix and a vector. SciPy's was quicker only where a
product takes microseconds, and ONNX Runtime's only one is many times slower than its dense one
(``benchmarks/sparse_kernels.py``).
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

NAME = "PyTorch sparse CSR"
Product = Callable[[Tensor], Tensor]


def has_mkl() -> bool:
    """Return whether Intel's MKL multiplies here; else PyTorch does it itself, a good deal slower.

    A processor of ARM has no MKL, for instance.
    """
    available: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return available


def to_torch_csr(matrix: Tensor) -> Tensor:
    """Return the matrix without its zeros, as PyTorch multiplies it: CSR with 32-bit indices.

    Args:
        matrix: (rows, inputs) float32.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        found = matrix.detach().to_sparse_csr()
        pointers, columns = found.crow_indices().int(), found.col_indices().int()
        return torch.sparse_csr_tensor(
            pointers, columns, found.values(), matrix.shape, check_invariants=True
        )


def prepare_product(matrix: Tensor, bias: Tensor | None = None) -> Product:
    """Return a function that multiplies a dense matrix by this sparse one and adds the bias.

    It takes (inputs, columns) float32 and returns (rows, columns). What is slow, finding the
    values that are not 0, is done here, once.

    Args:
        matrix: (rows, inputs) float32.
        bias: (rows,) float32, added to each column.
    """
    csr = to_torch_csr(matrix)
    offset = torch.zeros(len(matrix)) if bias is None else bias.detach().clone()
    column = offset[:, None]  # (rows, 1)
    has_vector_kernel = has_mkl()

    def multiply(dense: Tensor) -> Tensor:
        if has_vector_kernel and dense.shape[1] == 1:
            return torch.addmv(offset, csr, dense[:, 0])[:, None]
        return torch.addmm(column, csr, dense)

    return multiply
