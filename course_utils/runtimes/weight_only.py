"""Weight-only quantization: matrices of few bits, activations that stay floats.

ONNX Runtime's MatMulNBits kernel reads the packed weights and unpacks them while it multiplies,
so a product that waits for its weights waits for fewer bytes.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from course_utils.runtimes.export import export_onnx, quiet, without_notes
from course_utils.runtimes.onnx_runtime import load, tell_left_over
from course_utils.runtimes.runner import Runner


def build_weight_only(
    model: nn.Module,
    images: np.ndarray,
    bits: int,
    *,
    block: int = 32,
    accuracy_level: int = 4,
    as_exported: bool = False,
    threads: int = 1,
) -> Runner:
    """Return a runner whose matrices have 8, 4 or 2 bits a weight; activations stay float32.

    ONNX Runtime's MatMulNBits kernel unpacks the weights while it multiplies. Convolutions are
    left as they are.

    Args:
        model: With ``nn.Linear`` layers; its weights are rounded here, block by block.
        images: A batch (n, ...) float32 of what it takes; only its shape is used.
        bits: 2, 4 or 8.
        block: How many weights share a scale: 16, 32, 64, 128 or 256.
        accuracy_level: What the kernel computes in: 4 is int8, 0 (ONNX Runtime's default) fp32.
        as_exported: Leave a linear layer with bias the Gemm that it is exported as; the
            quantizer passes over it without a word then.
        threads: How many threads share one call.

    Raises:
        ValueError: There is no kernel for this width or block, or the model does not accept the
            images.
    """
    graph = export_onnx(model, images)
    if not as_exported:
        graph = gemm_to_matmul(graph)
    graph = quantize_matrices(graph, bits, block=block, accuracy_level=accuracy_level)
    runner = load(graph.SerializeToString(), threads=threads)
    narrow = runner.operators.get("MatMulNBits", 0)
    if not narrow:
        remark = "there is no matrix in this graph that the kernel could take"
        return replace(runner, kernel="fp32", remark=remark)
    remark = tell_left_over(runner, narrow, f"has weights of {bits} bits")
    return replace(runner, kernel=f"{bits}-bit weights (MatMulNBits)", remark=remark)


def quantize_matrices(
    graph: onnx.ModelProto, bits: int, *, block: int = 32, accuracy_level: int = 4
) -> onnx.ModelProto:
    """Return the graph with only the weights of its MatMul nodes rounded (MatMulNBits).

    Each ``block`` of weights that lie along a column of the matrix has a scale of its own.

    Args:
        graph: In float32; what is no MatMul (a Gemm, say) stays as it is, see ``gemm_to_matmul``.
        bits: 2, 4 or 8.
        block: Weights that share a scale: 16, 32, 64, 128 or 256.
        accuracy_level: What the kernel computes in: 4 is int8, 0 (ONNX Runtime's default) fp32.

    Raises:
        ValueError: There is no kernel for this width or block.
    """
    if bits not in (2, 4, 8) or block not in (16, 32, 64, 128, 256):
        raise ValueError(
            "MatMulNBits has kernels for 2, 4 and 8 bits and for blocks of 16, 32, 64, 128 or 256"
            f" weights, not for {bits} bits and blocks of {block}."
        )
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # takes 0.3 s to import
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    untouched = onnx.ModelProto()
    untouched.CopyFrom(graph)
    with quiet():
        config = DefaultWeightOnlyQuantConfig(
            block_size=block, is_symmetric=True, accuracy_level=accuracy_level, bits=bits
        )
        quantizer = MatMulNBitsQuantizer(untouched, algo_config=config)
        quantizer.process()
    return without_notes(quantizer.model.model)


def gemm_to_matmul(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each Gemm, an exported ``nn.Linear``, as MatMul and Add.

    A Gemm that scales or transposes more than a linear layer does is left as it is.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    stored = {initializer.name: initializer for initializer in graph.graph.initializer}
    turned: dict[str, str] = {}  # weight -> its transpose
    nodes = []
    for node in graph.graph.node:
        if not _is_linear(node) or node.input[1] not in stored:
            nodes.append(node)
            continue
        x, weight, *bias = node.input
        if weight not in turned:
            turned[weight] = f"{weight}.T"
            matrix = np.ascontiguousarray(numpy_helper.to_array(stored[weight]).T)
            changed.graph.initializer.append(numpy_helper.from_array(matrix, turned[weight]))
        out = node.output[0]
        product = f"{out}_product" if bias else out
        nodes.append(helper.make_node("MatMul", [x, turned[weight]], [product], f"{out}_matmul"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], [out], f"{out}_add"))
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [initializer for initializer in changed.graph.initializer if initializer.name in read]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    return changed


def _is_linear(node: onnx.NodeProto) -> bool:
    settings = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    settings |= {a.name: helper.get_attribute_value(a) for a in node.attribute}
    usual = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    return node.op_type == "Gemm" and settings == usual
