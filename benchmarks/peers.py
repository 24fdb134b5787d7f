"""The int8 of other libraries, each a function of a network and calibration images to a Runner.

The kernel of a runner here is how many of the network's layers really run in int8, "9/10"; its
remark is what the artefact is.
"""

import contextlib
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from course_utils import quantize, runtimes
from course_utils.runtimes import Runner, onnx_runtime, openvino_runtime
from course_utils.runtimes.export import export_onnx, quiet, without_notes

OPENVINO_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}


class UnavailableError(Exception):
    """What a peer needs and this machine does not have."""


class CalibrationImages(CalibrationDataReader):
    """One image at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        self._feeds = ({"images": image[None]} for image in images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def build_ours(model: nn.Module, images: np.ndarray, bits: int) -> Runner:
    return count_int8(runtimes.build(quantize.quantize_weights(model, bits), images))


def build_onnx_runtime(
    model: nn.Module, images: np.ndarray, pre_process: bool = False, **settings: object
) -> Runner:
    """Return what ``quantize_static`` makes of the exported graph with ranges of its own."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, made = Path(folder) / "source.onnx", Path(folder) / "made.onnx"
        onnx.save(export_onnx(model, images), source)
        if pre_process:
            quant_pre_process(source, source)
        quantize_static(source, made, CalibrationImages(images), **settings)
        graph = without_notes(onnx.load(made))
    return count_int8(runtimes.load(graph.SerializeToString()))


def count_int8(runner: Runner) -> Runner:
    """Return the runner of ONNX Runtime, its kernel told as the share of layers in int8."""
    int8, fp32 = (
        sum(count for name, count in runner.operators.items() if name in names)
        for names in (onnx_runtime.INT8_OPERATORS, onnx_runtime.FLOAT_OPERATORS)
    )
    return replace(runner, kernel=f"{int8}/{int8 + fp32}", remark="an ONNX file")


def build_openvino(model: nn.Module, images: np.ndarray, preset: str | None = None) -> Runner:
    """Return OpenVINO's runner: in fp32, or quantized by NNCF with "default" or a named preset.

    It gets its best case, a graph of batch 1. Left alone it computes fp32 networks in bf16
    where the processor has it, and moves the calling thread to a core of its choice.
    """
    core = openvino_runtime._open_core()  # one stays open: two, closed, make Ctrl-C a crash
    import openvino

    graph = core.read_model(export_onnx(model, images).SerializeToString())
    graph.reshape([1, *images.shape[1:]])
    if preset is not None:
        import nncf

        named = {} if preset == "default" else {"preset": nncf.QuantizationPreset(preset)}
        with quiet():
            calibration = nncf.Dataset([image[None] for image in images])
            graph = nncf.quantize(graph, calibration, subset_size=len(images), **named)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        files = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    compiled = core.compile_model(core.read_model(*files), "CPU", OPENVINO_SETTINGS)
    request = compiled.create_infer_request()
    fed = request.get_input_tensor()

    def run(batch: np.ndarray) -> np.ndarray:
        fed.data[:] = batch  # 0.05 ms faster than request.infer(batch)
        request.infer()
        return request.get_output_tensor().data.copy()

    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    layers = [
        fact["primitiveType"].astype(str)
        for fact in facts
        if fact["layerType"].astype(str).startswith(("Convolution", "FullyConnected", "MatMul"))
    ]
    kernel = f"{sum(name.endswith('I8') for name in layers)}/{len(layers)}"
    return Runner(run, "OpenVINO", kernel, ".xml and .bin", b"".join(files), images.shape[1:])


def build_torchao(model: nn.Module, images: np.ndarray, ahead: bool) -> Runner:
    """Return the pt2e flow's runner: through torch.compile, or compiled ahead of time."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # which CUDA files it did not load
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torch._dynamo.utils import counters
    from torch._inductor import aoti_compile_and_package, aoti_load_package, config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    default = x86.get_default_x86_inductor_quantization_config()
    example = torch.zeros(1, *images.shape[1:])  # it is stored in the program
    with quiet(), torch.no_grad():
        exported = torch.export.export(model, (example,)).module()
        prepared = prepare_pt2e(exported, x86.X86InductorQuantizer().set_global(default))
        for image in images:
            prepared(torch.from_numpy(image[None]))
        converted = convert_pt2e(prepared)
        drop_unused_(converted)  # or the file holds the float weights as well
        program = torch.export.export(converted, (example,))
        file = io.BytesIO()
        torch.export.save(program, file)
    artefact, ships, call = file.getvalue(), "exported program, needs torch", converted
    counters.clear()
    try:
        get_cpp_compiler()
        # The two settings of the tutorial; without freezing no int8 kernel is chosen.
        with quiet(), torch.no_grad(), config.patch(freezing=True, cpp_wrapper=True):
            if ahead:
                with tempfile.TemporaryDirectory() as folder:
                    path = aoti_compile_and_package(program, package_path=f"{folder}/m.pt2")
                    artefact, ships = Path(path).read_bytes(), "compiled .pt2, needs libtorch"
                    call = aoti_load_package(path)
            else:
                call = torch.compile(converted)
            call(example)
    except InvalidCxxCompiler:
        if ahead:
            raise UnavailableError("a C++ compiler") from None
        ships = "exported program; no C++ compiler, so RUN EAGERLY"
    kinds = ("qconv_weight_prepack_matcher_count", "qlinear_weight_prepack_matcher_count")
    int8 = sum(counters["inductor"][kind] for kind in kinds)
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules())

    @torch.no_grad()
    def run(batch: np.ndarray) -> np.ndarray:
        return call(torch.from_numpy(batch)).numpy()

    return Runner(run, "torchao", f"{int8}/{layers}", ships, artefact, images.shape[1:])


def drop_unused_(module: nn.Module) -> None:
    """Remove the parameters that a traced module does not read."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_parameters()):
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
