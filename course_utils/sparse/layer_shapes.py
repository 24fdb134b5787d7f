"""Single layers of a given shape: with zeros at random, and in ONNX Runtime."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from course_utils.runtimes.onnx_runtime import load
from course_utils.runtimes.runner import Runner

OPSET, IR_VERSION = 18, 10


@dataclass(frozen=True)
class LayerShape:
    """A layer as the product that it computes: weights (rows, inputs) times (inputs, columns).

    Attributes:
        rows: Outputs, or output channels.
        inputs: Values that go into an output: of a convolution channels * kernel².
        columns: Images of a fully connected layer; of a convolution the pixels of its output, a
            square.
        kernel: Height and width of a convolution's kernel; 0: fully connected.
        stride: Of the convolution.
    """

    rows: int
    inputs: int
    columns: int
    kernel: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.rows, self.inputs, self.columns, self.stride) < 1 or self.kernel < 0:
            raise ValueError(f"{self} is no layer; give numbers of 1 or more.")
        is_square = math.isqrt(self.columns) ** 2 == self.columns
        if self.kernel and (not self.kernel % 2 or self.inputs % self.kernel**2 or not is_square):
            raise ValueError(
                f"{self} is no convolution: its kernel is odd, its inputs are channels times"
                " kernel², and its columns the pixels of a square."
            )

    def build_layer(self, sparsity: float) -> nn.Module:
        """Return the layer with random weights, of which exactly this share, rounded, are 0."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(self.rows * self.inputs, generator=generator)
        zeros = round(sparsity * len(weight))
        weight[torch.randperm(len(weight), generator=generator)[:zeros]] = 0
        layer: nn.Linear | nn.Conv2d
        if self.kernel:
            channels = self.inputs // self.kernel**2
            layer = nn.Conv2d(channels, self.rows, self.kernel, self.stride, self.kernel // 2)
        else:
            layer = nn.Linear(self.inputs, self.rows)
        layer.weight = nn.Parameter(weight.view(layer.weight.shape))
        layer.bias = nn.Parameter(torch.randn(self.rows, generator=generator))
        return nn.Sequential(layer).eval()

    def draw_images(self) -> np.ndarray:
        """Return what a call gets: (columns, inputs), or an image (1, channels, side, side)."""
        shape: tuple[int, ...] = (self.columns, self.inputs)
        if self.kernel:
            side = math.isqrt(self.columns) * self.stride
            shape = (1, self.inputs // self.kernel**2, side, side)
        return np.random.default_rng(0).standard_normal(shape, np.float32)


# Of ResNet-8 of width 32, the encoder, and the networks that are all fully connected.
COURSE_LAYERS = {
    "1024×1024, one image": LayerShape(1024, 1024, 1),
    "1024×1024, 32 images": LayerShape(1024, 1024, 32),
    "1024×1024, 256 images": LayerShape(1024, 1024, 256),
    "300×784, one image": LayerShape(300, 784, 1),
    "768×192, 32 tokens": LayerShape(768, 192, 32),
    "3×3 convolution, 32 channels of 28×28": LayerShape(32, 288, 784, kernel=3),
    "3×3 convolution, 64 channels of 14×14": LayerShape(64, 576, 196, kernel=3),
    "3×3 convolution, 128 channels of 7×7": LayerShape(128, 1152, 49, kernel=3),
}


def build_dense(layer: nn.Module, images: np.ndarray) -> Runner:
    """Return ONNX Runtime's runner of a single layer; its graph is written here, in no time.

    Args:
        layer: An ``nn.Sequential`` of one ``nn.Linear`` or ``nn.Conv2d``.
        images: What it takes; only the shape is used.
    """
    single: Any = layer.get_submodule("0")
    given, result, weight, bias = "images", "logits", "weight", "bias"
    if isinstance(single, nn.Conv2d):
        pads = [*single.padding, *single.padding]
        node = helper.make_node(
            "Conv", [given, weight, bias], [result], strides=single.stride, pads=pads
        )
    else:
        node = helper.make_node("Gemm", [given, weight, bias], [result], transB=1)
    shape = ["batch", *images.shape[1:]]
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, [None] * len(shape))],
        [
            numpy_helper.from_array(tensor.detach().numpy(), name)
            for name, tensor in ((weight, single.weight), (bias, single.bias))
        ],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return load(made.SerializeToString())
