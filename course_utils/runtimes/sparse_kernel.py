"""A network whose layers multiply without their zeros: PyTorch's kernel for sparse rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from course_utils.quantize import fold_batch_norms
from course_utils.quantize.weights import find_layers
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import check_accepts, check_threads, use_threads
from course_utils.sparse import compress, prepare_product
from course_utils.sparse.model_files import check_released
from course_utils.sparse.products import NAME, has_mkl


def build_sparse(
    model: nn.Module, images: np.ndarray, *, threads: int = 1, dense_below: float = 0.0
) -> Runner:
    """Return a runner whose convolutions and linear layers run in a sparse kernel.

    Batch norms are folded into the convolutions, which keeps the zeros. A convolution becomes a
    product: the pixels below each place of its kernel are laid out as a column ("im2col"), and
    the sparse weights are multiplied by all columns. That copy is a cost which dense kernels do
    not have, and it is timed with the rest. All else runs as in PyTorch eager.

    Args:
        model: With weights of which many are 0; it is copied.
        images: A batch (n, ...) of the images that it takes; only its shape is used.
        threads: How many threads share one call.
        dense_below: A layer with a smaller share of zeros than this stays dense; 0: none does.

    Raises:
        ValueError: The model does not accept these images, cannot be traced, has no layer to run
            sparse, or one that the sparse kernel cannot run; it is named.
    """
    check_threads(threads)
    if not 0 <= dense_below <= 1:
        raise ValueError(f"dense_below={dense_below} is no share of zeros; give 0 to 1.")
    check_released(model)
    is_single = isinstance(model, nn.Conv2d | nn.Linear)  # would be traced into its own insides
    folded = fold_batch_norms(nn.Sequential(model) if is_single else model)
    folded.requires_grad_(False)
    artefact = compress(folded)
    sparse = replace_layers(folded, dense_below)
    layers, ran = find_layers(folded), find_sparse(sparse)
    if not layers:
        raise ValueError("This model has no convolution or linear layer to run in a sparse kernel.")

    def run(batch: np.ndarray) -> np.ndarray:
        with use_threads(threads), torch.inference_mode():
            logits: np.ndarray = sparse(torch.from_numpy(batch)).numpy()
        return logits

    check_accepts(run, images)
    remark = f"{len(ran)} of {len(layers)} layers ran sparse" + ", by MKL" * has_mkl()
    if len(ran) < len(layers):
        remark += ", the others dense in PyTorch"
    return Runner(run, NAME, "fp32, CSR", remark, artefact, images.shape[1:], threads=threads)


def replace_layers(traced: fx.GraphModule, dense_below: float = 0.0) -> nn.Module:
    """Return a copy of a traced model whose layers with enough zeros multiply without them.

    Raises:
        ValueError: The sparse kernel cannot run such a layer; it is named.
    """
    copied = fx.GraphModule(traced, traced.graph)
    for name in find_layers(traced):
        layer = traced.get_submodule(name)
        if measure_zeros(layer) < dense_below:
            continue
        if isinstance(layer, nn.Linear):
            copied.set_submodule(name, SparseLinear(layer))
        elif isinstance(layer, nn.Conv2d):
            if layer.groups != 1 or layer.padding_mode != "zeros":
                raise ValueError(
                    f"Layer {name!r} has {layer.groups} groups and padding_mode="
                    f"{layer.padding_mode!r}; the sparse kernel runs convolutions of one group,"
                    " padded with zeros. Give dense_below a share of zeros above this layer's,"
                    f" {measure_zeros(layer):.2f}, so that it stays dense."
                )
            copied.set_submodule(name, SparseConv2d(layer))
    return copied


def find_sparse(model: nn.Module) -> list[str]:
    """Return the names of the layers that run in the sparse kernel."""
    kinds = SparseConv2d | SparseLinear
    return [name for name, layer in model.named_modules() if isinstance(layer, kinds)]


def measure_zeros(layer: nn.Module) -> float:
    """Return the share of a layer's weights that are 0."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return 1 - int(torch.count_nonzero(weight)) / weight.numel()


class SparseLinear(nn.Module):
    """A fully connected layer without its zeros."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.multiply = prepare_product(layer.weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) of (..., inputs)."""
        columns = x.reshape(-1, x.shape[-1]).T  # (inputs, columns)
        return self.multiply(columns).T.contiguous().view(*x.shape[:-1], -1)


class SparseConv2d(nn.Module):
    """A convolution without its zeros, as a product with columns of pixels.

    With a padded image's pixels in one long line, what a weight meets while its kernel slides over
    the image is a piece of that line: one for each channel and place in the kernel, and each begins
    at another pixel. Only pieces that meet a weight other than 0 are copied. Where the kernel
    slides over the end of a row, columns come out that are no pixels; they are dropped. A stride
    of 2 first sorts the pixels into four images, of even or odd rows and columns.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        matrix = layer.weight.flatten(1)  # (channels out, channels in * kernel size)
        self.channels_in = layer.in_channels
        self.used = (matrix != 0).any(0).nonzero()[:, 0]  # (pieces,)
        self.multiply = prepare_product(matrix[:, self.used], layer.bias)
        self.layer_shape = layer.kernel_size, layer.stride, layer.dilation, find_padding(layer)
        self.plans: dict[torch.Size, Plan] = {}  # by shape of an image

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels out, height out, width out) of (n, channels, height, width)."""
        plan = self.plans.get(x.shape[1:])
        if plan is None:
            if x.shape[1] != self.channels_in:
                raise RuntimeError(f"{self.channels_in} channels are expected, not {x.shape[1]}.")
            plan = self.plans[x.shape[1:]] = Plan.make(self.used, x.shape[1:], *self.layer_shape)
        pixels = torch.constant_pad_nd(x, plan.padding) if any(plan.padding) else x.contiguous()
        if plan.sorted_shape:  # to (n, high, wide, channels, rows, columns)
            pixels = pixels.view(-1, *plan.sorted_shape).permute(0, 3, 5, 1, 2, 4).contiguous()
        size = pixels[0].numel()
        outputs = []
        for first in range(0, pixels.numel(), size):
            every = pixels.as_strided((size - plan.length + 1, plan.length), (1, 1), first)
            product = self.multiply(every.index_select(0, plan.starts))  # (channels out, length)
            strides = (plan.length, plan.line, 1)
            outputs.append(product.as_strided((len(product), *plan.output), strides))
        return torch.stack(outputs)


@dataclass(frozen=True)
class Plan:
    """Where in an image's line of pixels the pieces lie that a convolution needs.

    Attributes:
        padding: Pixels to add: left, right, top, bottom; so many that the stride divides the image.
        sorted_shape: Channels, rows, high, columns, wide of the padded image, where the stride is
            high × wide; empty if that is 1 × 1.
        starts: (pieces,), the first pixel of each.
        length: Pixels of a piece.
        line: Pixels of a row.
        output: Height and width of what comes out.
    """

    padding: list[int]
    sorted_shape: tuple[int, ...]
    starts: Tensor
    length: int
    line: int
    output: tuple[int, int]

    @classmethod
    def make(
        cls,
        used: Tensor,
        image: torch.Size,
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
    ) -> Self:
        """Return the plan for images (channels, height, width)."""
        (high, wide), (left, right, top, bottom) = stride, padding
        height, width = image[1] + top + bottom, image[2] + left + right
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        output = (height - reach[0] - 1) // high + 1, (width - reach[1] - 1) // wide + 1
        if min(output) < 1:
            raise RuntimeError(f"A kernel of {kernel} does not fit an image of {height}×{width}.")
        rows, line = -(-height // high), -(-width // wide)  # of a sorted image
        is_sorted = (high, wide) != (1, 1)
        pixel = torch.arange(high * wide * image[0] * rows * line)
        pixel = pixel.view(high, wide, image[0], rows, line)
        channel, down, right_ = torch.unravel_index(used, (image[0], *kernel))
        down, right_ = down * dilation[0], right_ * dilation[1]
        return cls(
            [left, right + line * wide - width, top, bottom + rows * high - height],
            (image[0], rows, high, line, wide) if is_sorted else (),
            pixel[down % high, right_ % wide, channel, down // high, right_ // wide],
            (output[0] - 1) * line + output[1],
            line,
            output,
        )


def find_padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the zeros that a convolution adds: left, right, top, bottom."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return left, right, top, bottom
    rows, columns = (int(pixels) for pixels in layer.padding)
    return columns, columns, rows, rows
