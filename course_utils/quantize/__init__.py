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
    spread_integers,
    sqnr_db,
    unpack_bits,
)
from course_utils.quantize.narrowing import narrow_weights
from course_utils.quantize.rounding import LearnedStep, RoundedLayer, fake_quantize
from course_utils.quantize.sensitivity import (
    Sensitivity,
    count_weights,
    measure_divergence,
    measure_sensitivity,
)
from course_utils.quantize.weights import quantize_weights, quantized_weights
from course_utils.quantize.widths import (
    choose_widths,
    choose_widths_exactly,
    count_weight_bytes,
    widest_uniform,
)

__all__ = [
    "FLOAT_BITS", "LARGEST_BITS", "SMALLEST_BITS", "LearnedStep", "QuantizedTensor", "RoundedLayer",
    "Sensitivity", "choose_widths", "choose_widths_exactly", "convert_aware", "count_weight_bytes",
    "count_weights", "fake_quantize", "find_roundings", "fold_batch_norms", "load_aware",
    "measure_divergence", "measure_sensitivity", "narrow_weights", "pack_bits", "prepare_aware",
    "quantize_affine", "quantize_bias", "quantize_symmetric", "quantize_weights",
    "quantized_weights", "read_aware", "save_aware", "spread_integers", "sqnr_db", "train_aware",
    "unpack_bits", "widest_uniform",
]  # fmt: skip
