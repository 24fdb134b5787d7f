"""Quantization: real numbers as small integers and a scale.

A quantized tensor stands for ``scale * (integers - zero_point)``. *Symmetric* means that the
zero point is 0 and the range is ``[-max|x|, max|x|]``; *affine* (or asymmetric) means that the
range is ``[min x, max x]``. One scale may serve the whole tensor or each output channel its
own. Vocabulary and method: Jacob et al., 2018, arXiv 1712.05877; Krishnamoorthi, 2018,
arXiv 1806.08342.
"""

from course_utils.quantize.aware import (
    convert_aware,
    find_roundings,
    prepare_aware,
    train_aware,
)
from course_utils.quantize.checkpoints import load_aware, read_aware, save_aware
from course_utils.quantize.folding import fold_batch_norms
from course_utils.quantize.integers import (
    FLOAT_BITS,
    LARGEST_BITS,
    SMALLEST_BITS,
    QuantizedTensor,
    pack_bits,
    quantize_affine,
    quantize_bias,
    quantize_symmetric,
    sqnr_db,
    unpack_bits,
)
from course_utils.quantize.rounding import LearnedStep, fake_quantize
from course_utils.quantize.weights import narrow_weights, quantize_weights, quantized_weights

__all__ = [
    "FLOAT_BITS", "LARGEST_BITS", "SMALLEST_BITS", "LearnedStep", "QuantizedTensor",
    "convert_aware", "fake_quantize", "find_roundings", "fold_batch_norms", "load_aware",
    "narrow_weights", "pack_bits", "prepare_aware", "quantize_affine", "quantize_bias",
    "quantize_symmetric", "quantize_weights", "quantized_weights", "read_aware", "save_aware",
    "sqnr_db", "train_aware", "unpack_bits",
]  # fmt: skip
