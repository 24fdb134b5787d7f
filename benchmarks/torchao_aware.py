"""torchao's quantization-aware training ("pt2e"), step by step, and what runs its result.

The network is exported to a graph, a quantizer says where roundings belong, ``prepare_qat_pt2e``
puts them there, ``convert_pt2e`` turns them into quantize and dequantize operators.
"""

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import peers
import torch
from torch import Tensor, fx, nn

from course_utils import runtimes
from course_utils.runtimes import Runner
from course_utils.runtimes.export import quiet, without_notes
from course_utils.runtimes.torch_eager import use_threads

with quiet():  # which CUDA files it did not load, and what of torch it will have to change
    import torchao.quantization.pt2e as pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

# torch warns itself of itself whenever an exported graph is copied.
warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)

OUTER_BITS = 8
SMALLEST_STEP = 2**-12  # as in the quantizer's own configuration
LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
ANNOTATION = "quantization_annotation"  # how quantizers name it


class Switchable(nn.Module):
    """A prepared graph as a module that can be trained like any other.

    ``train`` and ``eval`` of the graph itself raise an error, and do nothing at all on a copy of
    it: an exported batch norm or dropout has its mode written into the graph.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> Tensor:
        return self.graph(images)

    def train(self, mode: bool = True) -> "Switchable":
        move = pt2e.move_exported_model_to_train if mode else pt2e.move_exported_model_to_eval
        move(self.graph)
        self.training = mode
        return self


def prepare(model: nn.Module, images: np.ndarray, bits: int, learned: bool) -> Switchable:
    """Return the network with roundings, their ranges set from some images, ready to train.

    Args:
        model: With its batch norms.
        images: (n, ...) float32, that set the first ranges.
        bits: 8 takes the quantizer's own configuration.
        learned: Whether steps are trained, as in LSQ; if not, they follow a moving average of the
            smallest and the largest value.
    """
    example = torch.from_numpy(images[:2])
    any_batch = ({0: torch.export.Dim("batch")},)
    own = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    quantizer = NarrowQuantizer(bits, learned)
    if bits == OUTER_BITS and not learned:
        quantizer = x86.X86InductorQuantizer().set_global(own)
    with quiet():
        # In training mode, or batch norms would not train. Strictly, or a ReLU that is a function
        # would not be found: a rounding before it would stay, and one after it would be added.
        exported = torch.export.export(
            copy.deepcopy(model).train(), (example,), dynamic_shapes=any_batch, strict=True
        )
        prepared = Switchable(prepare_qat_pt2e(exported.module(), quantizer)).eval()
    with torch.no_grad():
        prepared(torch.from_numpy(images))
    if learned:
        prepared.apply(pt2e.enable_range_learning)
    return prepared


def freeze(prepared: Switchable) -> Switchable:
    """Return a copy whose ranges no longer follow what it sees, in evaluation mode as well."""
    frozen = copy.deepcopy(prepared)
    frozen.apply(pt2e.disable_observer)
    return frozen.eval()


def convert(prepared: Switchable) -> Switchable:
    """Return the network with integers for weights and batch norms folded into them."""
    with quiet():
        converted = convert_pt2e(freeze(prepared).graph)
    peers.drop_unused_(converted)  # or files hold the float weights as well
    return Switchable(converted).eval()


class NarrowQuantizer(x86.X86InductorQuantizer):
    """Roundings where the quantizer puts them, of fewer bits: the same ones as in our scheme.

    All layers but the first and the last have the width, in their weights and in what they read.
    """

    def __init__(self, bits: int, learned: bool) -> None:
        super().__init__()
        self.bits, self.learned = bits, learned
        activation, weight = make_roundings(OUTER_BITS, learned)
        self.set_global(QuantizationConfig(activation, activation, weight, None, is_qat=True))

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        super().annotate(model)
        activation, weight = make_roundings(self.bits, self.learned)
        nodes = [node for node in model.graph.nodes if ANNOTATION in node.meta]
        _, *inner, _ = (node for node in nodes if node.target in LAYERS)
        narrow = {layer.args[0]: activation for layer in inner}
        narrow |= {layer.args[1]: weight for layer in inner}
        for node in nodes:
            rounding = node.meta[ANNOTATION]
            for given in rounding.input_qspec_map.keys() & narrow.keys():
                rounding.input_qspec_map[given] = narrow[given]
            if rounding.output_qspec is not None and node in narrow:
                rounding.output_qspec = narrow[node]
        return model


def make_roundings(bits: int, learned: bool) -> tuple[QuantizationSpec, QuantizationSpec]:
    """Return how an activation and how a weight is rounded."""
    # Not the usual FusedMovingAvgObsFakeQuantize: it trains with other steps than it converts
    # to (pytorch/ao, pull request 4824).
    kind = pt2e.LearnableFakeQuantize if learned else pt2e.FakeQuantize
    settings = {"eps": SMALLEST_STEP} | ({"use_grad_scaling": True} if learned else {})
    activation, weight = (
        kind.with_args(observer=observer, **settings)
        for observer in (
            pt2e.MovingAverageMinMaxObserver,
            pt2e.MovingAveragePerChannelMinMaxObserver,
        )
    )
    high = 2 ** (bits - 1) - 1
    return (
        QuantizationSpec(torch.uint8, activation, 0, 2**bits - 1, torch.per_tensor_affine),
        QuantizationSpec(torch.int8, weight, -high, high, torch.per_channel_symmetric, ch_axis=0),
    )


def build_eager(converted: Switchable, images: np.ndarray) -> Runner:
    """Return the runner of what ``convert_pt2e`` gives: integers turned back, then float32."""
    return _make_runner(converted.graph, images, 0)


def build_compiled(converted: Switchable, images: np.ndarray) -> Runner:
    """Return the runner of ``torch.compile``."""
    with quiet():
        from torch._dynamo.utils import counters
        from torch._inductor import config
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise peers.UnavailableError("a C++ compiler") from None
    torch._dynamo.reset()  # or the code of the network before would be used
    counters.clear()
    # The two settings of the tutorial; without freezing no int8 kernel is chosen. The number of
    # threads is written into the code.
    settings = config.patch(freezing=True, cpp_wrapper=True)
    with quiet(), torch.no_grad(), use_threads(1), settings:
        call = torch.compile(copy.deepcopy(converted.graph))
        call(torch.zeros(1, *images.shape[1:]))
    kinds = ("qconv_weight_prepack_matcher_count", "qlinear_weight_prepack_matcher_count")
    int8 = sum(counters["inductor"][kind] for kind in kinds)
    return replace(_make_runner(converted.graph, images, int8), run=_make_run(call))


def _make_runner(graph: fx.GraphModule, images: np.ndarray, int8: int) -> Runner:
    """Return a runner whose kernel is how many layers run in int8, "9/10"."""
    layers = sum(node.target in LAYERS for node in graph.graph.nodes)
    file = io.BytesIO()
    with quiet():
        torch.export.save(torch.export.export(graph, (torch.zeros(1, *images.shape[1:]),)), file)
    kernel, remark = f"{int8}/{layers}", "needs torch"
    return Runner(_make_run(graph), "torchao", kernel, remark, file.getvalue(), images.shape[1:])


def _make_run(call: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    def run(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad(), use_threads(1):
            return call(torch.from_numpy(batch)).numpy()

    return run


def build_onnx_runtime(converted: Switchable, images: np.ndarray) -> Runner:
    """Return the runner of ONNX Runtime for the exported graph, in QDQ format."""
    example = torch.zeros(2, *images.shape[1:])
    any_batch = ({0: torch.export.Dim("batch")},)
    with quiet():
        program = torch.onnx.export(
            converted.graph, (example,), dynamo=True, dynamic_shapes=any_batch
        )
    graph = without_notes(program.model_proto)
    return peers.count_int8(runtimes.load(graph.SerializeToString()))
