"""Which library multiplies a sparse matrix by a dense one the quickest, and is dense quicker still?

    .venv/bin/python benchmarks/sparse_kernels.py [--rounds 12] [--layers PART ...]

For the shapes of the course's layers (rows × inputs, times columns; a convolution as the product
of its weights with its columns of pixels) and several shares of zeros, all kernels take turns on
one thread; shown is how many times as fast as the quicker dense kernel each is. SciPy is not
needed by the course: ``pip install scipy`` adds its row.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from course_utils import machine, measure
from course_utils.runtimes.export import open_session
from course_utils.runtimes.torch_eager import use_threads
from course_utils.sparse import prepare_product, to_torch_csr
from course_utils.tables import Table

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SHAPES = {
    **{f"{rows}×{inputs}": (rows, inputs, (1, 32, 256)) for rows, inputs in (
        (1024, 1024), (300, 784), (100, 300))},
    "ResNet-8 stem": (32, 9, (784,)),
    "ResNet-8 block 1": (32, 288, (784,)),
    "ResNet-8 block 2, first": (64, 288, (196,)),
    "ResNet-8 block 2, second": (64, 576, (196,)),
    "ResNet-8 block 2, shortcut": (64, 32, (196,)),
    "ResNet-8 block 3, first": (128, 576, (49,)),
    "ResNet-8 block 3, second": (128, 1152, (49,)),
    "ResNet-8 block 3, shortcut": (128, 64, (49,)),
}  # fmt: skip
BLOCK = 16
HOPELESS = 0.04  # of the speed of dense: such a kernel is not timed in turns
Product = Callable[[np.ndarray], np.ndarray]  # (inputs, columns) -> (rows, columns)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--layers", nargs="*", default=[""], help="parts of their names")
    chosen = arguments.parse_args()
    print(machine.describe(), f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}")
    for name, (rows, inputs, all_columns) in SHAPES.items():
        if any(part in name for part in chosen.layers):
            for columns in all_columns:
                print(f"\n{name}: {rows}×{inputs} times {columns}")
                print(tabulate(rows, inputs, columns, chosen.rounds))


def tabulate(rows: int, inputs: int, columns: int, rounds: int) -> Table:
    dense = np.random.default_rng(1).standard_normal((inputs, columns), np.float32)
    found = [compare_kernels(rows, inputs, dense, sparsity, rounds) for sparsity in SPARSITIES]
    names = list(dict.fromkeys(name for one in found for name in one))
    head = ["times as fast as dense", *(f"{100 * share:g} %" for share in SPARSITIES)]
    return Table(head, [[name, *(one.get(name, "–") for one in found)] for name in names], [])


def compare_kernels(
    rows: int, inputs: int, dense: np.ndarray, sparsity: float, rounds: int
) -> dict[str, str]:
    """Return the speed of each kernel in words, by name; of the dense one its milliseconds."""
    matrix = draw_matrix(rows, inputs, sparsity)
    kernels = {name: build(matrix) for name, build in DENSE.items()}
    with use_threads(1), torch.inference_mode():
        limit_ms = min(call_ms(product, dense) for product in kernels.values()) / HOPELESS
        told = {}
        for name, build in SPARSE.items():
            try:
                product = build(matrix)
            except (ImportError, ValueError):
                continue
            if not name.startswith("PyTorch, blocks"):
                np.testing.assert_allclose(product(dense), matrix @ dense, rtol=1e-3, atol=1e-3)
            if call_ms(product, dense) > limit_ms:
                told[name] = f"< {HOPELESS}"
            else:
                kernels[name] = product
        runners = [lambda batch, run=run: run(batch[0])[None] for run in kernels.values()]
        timed = measure.compare(*runners, images=dense[None], names=[*kernels], rounds=rounds)
    best = max(DENSE, key=lambda name: timed.speed(name).value)
    for name in kernels:
        ratio = timed.speed(name, against=best)
        told[name] = f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
    told[best] = f"{timed.latency(best).value:.4f} ms"
    order = [*DENSE, *SPARSE]
    return {name: told[name] for name in order if name in told}


def draw_matrix(rows: int, inputs: int, sparsity: float) -> np.ndarray:
    random = np.random.default_rng(0)
    matrix = random.standard_normal((rows, inputs), np.float32)
    places = random.permutation(matrix.size)[: round(sparsity * matrix.size)]
    matrix.flat[places] = 0
    return matrix


def call_ms(product: Product, dense: np.ndarray) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product(dense)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def multiply_dense(matrix: np.ndarray) -> Product:
    weight = torch.from_numpy(matrix)
    return lambda dense: (weight @ torch.from_numpy(dense)).numpy()


def multiply_in_onnx_runtime(matrix: np.ndarray) -> Product:
    """ONNX Runtime packs a constant right factor, so the product is turned: (x.T @ w.T).T."""
    sizes = [None, matrix.shape[1]], [None, matrix.shape[0]]
    given, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in zip(("x", "y"), sizes, strict=True)
    )
    weight = numpy_helper.from_array(np.ascontiguousarray(matrix.T), "weight")
    session = open_session(make_model("MatMul", ["x", "weight"], [given], result, [weight]))
    turned: list[np.ndarray] = []

    def run(dense: np.ndarray) -> np.ndarray:
        if not turned:  # a layer before would write it like this, so it is not timed
            turned.append(np.ascontiguousarray(dense.T))
        return session.run(None, {"x": turned[0]})[0].T

    return run


def multiply_torch_csr(matrix: np.ndarray) -> Product:
    product = prepare_product(torch.from_numpy(matrix))
    return lambda dense: product(torch.from_numpy(dense)).numpy()


def multiply_torch_csr_64(matrix: np.ndarray) -> Product:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr = torch.from_numpy(matrix).to_sparse_csr()
    return lambda dense: (csr @ torch.from_numpy(dense)).numpy()


def multiply_torch_csr_as_matrix(matrix: np.ndarray) -> Product:
    csr = to_torch_csr(torch.from_numpy(matrix))
    return lambda dense: (csr @ torch.from_numpy(dense)).numpy()


def multiply_torch_blocks(matrix: np.ndarray) -> Product:
    """Another matrix with as many zeros, all in blocks: this kernel's best case."""
    rows, inputs = matrix.shape
    if rows % BLOCK or inputs % BLOCK:
        raise ValueError("Its blocks do not fit.")
    kept = draw_matrix(rows // BLOCK, inputs // BLOCK, float((matrix == 0).mean())) != 0
    weight = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    weight *= torch.from_numpy(kept.repeat(BLOCK, 0).repeat(BLOCK, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = weight.to_sparse_bsr((BLOCK, BLOCK))
        blocks = torch.sparse_bsr_tensor(
            blocks.crow_indices().int(), blocks.col_indices().int(), blocks.values(), weight.shape
        )
    return lambda dense: (blocks @ torch.from_numpy(dense)).numpy()


def multiply_scipy(matrix: np.ndarray) -> Product:
    from scipy import sparse

    csr = sparse.csr_array(matrix)
    return lambda dense: csr @ dense


def multiply_sparse_in_onnx_runtime(matrix: np.ndarray) -> Product:
    """The one sparse kernel of ONNX Runtime on a CPU, an operator of its own.

    Its sparse factor has to be an input: a sparse initializer is made dense when a graph is loaded.
    """
    rows, inputs = matrix.shape
    given = onnx.ValueInfoProto(name="weight")
    given.type.sparse_tensor_type.elem_type = TensorProto.FLOAT
    for size in (rows, inputs):
        given.type.sparse_tensor_type.shape.dim.add().dim_value = size
    dense_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [inputs, None])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, None])
    session = open_session(
        make_model("SparseToDenseMatMul", ["weight", "x"], [given, dense_input], result, [])
    )
    csr = to_torch_csr(torch.from_numpy(matrix))
    values, columns, pointers = csr.values(), csr.col_indices().long(), csr.crow_indices().long()
    stored = onnxruntime.SparseTensor.sparse_csr_from_numpy(
        np.array(matrix.shape, np.int64),
        *(tensor.numpy() for tensor in (values, columns, pointers)),
        onnxruntime.OrtDevice.make("cpu", 0),
    )
    weight = onnxruntime.OrtValue.ort_value_from_sparse_tensor(stored)

    def run(dense: np.ndarray) -> np.ndarray:
        feeds = {"weight": weight, "x": onnxruntime.OrtValue.ortvalue_from_numpy(dense)}
        return session.run_with_ort_values(["y"], feeds)[0].numpy()

    return run


def make_model(
    operator: str,
    names: list[str],
    inputs: list[onnx.ValueInfoProto],
    result: onnx.ValueInfoProto,
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    domain = "com.microsoft" if operator == "SparseToDenseMatMul" else ""
    node = helper.make_node(operator, names, [result.name], domain=domain)
    graph = helper.make_graph([node], "product", inputs, [result], weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


DENSE = {"dense, PyTorch": multiply_dense, "dense, ONNX Runtime": multiply_in_onnx_runtime}
SPARSE = {
    "PyTorch CSR (the course's)": multiply_torch_csr,
    "PyTorch CSR, never as vector": multiply_torch_csr_as_matrix,
    "PyTorch CSR, 64-bit indices": multiply_torch_csr_64,
    "SciPy CSR": multiply_scipy,
    "ONNX Runtime SparseToDenseMatMul": multiply_sparse_in_onnx_runtime,
    f"PyTorch, blocks of {BLOCK}×{BLOCK} zeros": multiply_torch_blocks,
}

if __name__ == "__main__":
    main()
