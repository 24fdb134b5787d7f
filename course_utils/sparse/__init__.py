"""Zeros that save something: matrices stored and multiplied without them.

``sparse.break_even`` measures from which sparsity on that pays; it is imported by its name.
"""

from course_utils.sparse.formats import (
    CompressedRows,
    MaskedValues,
    SparseMatrix,
    TwoOfFour,
    csr_break_even_sparsity,
)
from course_utils.sparse.model_files import compress, decompress, list_formats
from course_utils.sparse.products import Product, prepare_product, to_torch_csr

__all__ = [
    "CompressedRows", "MaskedValues", "Product", "SparseMatrix", "TwoOfFour", "compress",
    "csr_break_even_sparsity", "decompress", "list_formats", "prepare_product", "to_torch_csr",
]  # fmt: skip
