"""The small architectures of the course, and their trained checkpoints.

Every network takes images as float32 in [0, 1] and returns logits, so that the pixels of
a camera can be fed to it without a preprocessing step that someone could forget.
"""

import itertools
import json
from collections.abc import Callable

import torch
from safetensors.torch import load as load_weights
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import verified


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them (He et al., 2016, arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny (Banbury et al., 2021, arXiv 2106.07597).

    A stem and three residual blocks of ``width``, ``2 * width`` and ``4 * width`` channels.
    MLPerf Tiny uses width 16 on 32x32 colour images; here the images are 28x28 and grey.
    """

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.block1 = ResidualBlock(width, width, stride=1)
        self.block2 = ResidualBlock(width, 2 * width, stride=2)
        self.block3 = ResidualBlock(2 * width, 4 * width, stride=2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(images)))  # (batch, width, 28, 28)
        x = self.block1(x)  # (batch, width, 28, 28)
        x = self.block2(x)  # (batch, 2 * width, 14, 14)
        x = self.block3(x)  # (batch, 4 * width, 7, 7)
        x = x.mean(dim=(2, 3))  # (batch, 4 * width)
        logits: Tensor = self.head(x)  # (batch, classes)
        return logits


class SeparableBlock(nn.Module):
    """A 3x3 filter for each channel, then a mix of the channels: depthwise separable convolution.

    It has about an eighth of the weights of a full 3x3 convolution (Howard et al., 2017, arXiv
    1704.04861). Where nothing changes its shape, a shortcut leads around it.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.depthwise(x)))
        out = self.norm2(self.pointwise(out))
        return F.relu(out + x) if self.has_shortcut else F.relu(out)


class DSCNN(nn.Module):
    """A network in the shape of those that hear keywords on microcontrollers.

    After the DS-CNN of Zhang et al., 2017, arXiv 1711.07128, which MLPerf Tiny took over: a stem
    that halves the image at once, so that little memory is needed, then depthwise separable
    blocks. Three of them have ``width`` channels, two half as many more, the last twice as many.
    """

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        half_more = width * 3 // 2
        self.stem = nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.block1 = SeparableBlock(width, width, stride=1)
        self.block2 = SeparableBlock(width, width, stride=1)
        self.block3 = SeparableBlock(width, width, stride=1)
        self.block4 = SeparableBlock(width, half_more, stride=2)
        self.block5 = SeparableBlock(half_more, half_more, stride=1)
        self.block6 = SeparableBlock(half_more, 2 * width, stride=1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(images)))  # (batch, width, 14, 14)
        x = self.block3(self.block2(self.block1(x)))  # (batch, width, 14, 14)
        x = self.block6(self.block5(self.block4(x)))  # (batch, 2 * width, 7, 7)
        x = x.mean(dim=(2, 3))  # (batch, 2 * width)
        logits: Tensor = self.head(x)  # (batch, classes)
        return logits


class MLP(nn.Module):
    """Fully connected layers of the given sizes with ReLU between them.

    ``MLP([784, 300, 100, 10])`` is LeNet-300-100 (LeCun et al., 1998).
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairs)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)  # (batch, sizes[0])
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        logits: Tensor = self.layers[-1](x)  # (batch, sizes[-1])
        return logits


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet8_w32_fashion": lambda: ResNet8(width=32),
    "resnet8_w16_fashion": lambda: ResNet8(width=16),
    "resnet8_w64_fashion": lambda: ResNet8(width=64),
    "ds_cnn_w40_fashion": lambda: DSCNN(width=40),
    "lenet_300_100_fashion": lambda: MLP([784, 300, 100, 10]),
    "mlp_1024_fashion": lambda: MLP([784, 1024, 1024, 10]),
}


def build_model(name: str, seed: int = 0) -> nn.Module:
    """Return the architecture of a checkpoint with freshly drawn weights.

    Args:
        name: A key of ``ARCHITECTURES``.
        seed: Of the generator that draws the weights.

    Raises:
        ValueError: There is no model of that name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"There is no model {name!r}; choose one of {sorted(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name]()


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_metadata(content: bytes) -> dict[str, str]:
    """Return what is noted in a safetensors file, e.g. a checkpoint's recipe.

    Raises:
        ValueError: This is no safetensors file.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        noted: dict[str, str] = header["__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"This is no safetensors file with notes ({error!s:.80}).") from None
    return noted


def describe_training(name: str) -> dict[str, str]:
    """Return how a checkpoint of the course was made: recipe, test accuracy, version of torch.

    Args:
        name: Of the file in ``data/checkpoints``, without its ending.

    Raises:
        course_utils.verified.DamagedFileError: It is missing or damaged.
    """
    return read_metadata(verified.read(f"checkpoints/{name}.safetensors"))


def load_pretrained(name: str, checkpoint: str | None = None) -> nn.Module:
    """Return a trained model of the course, in evaluation mode on the CPU.

    Args:
        name: A key of ``ARCHITECTURES``, e.g. "resnet8_w32_fashion".
        checkpoint: The file in ``data/checkpoints``, without its ending, where it has not the name
            of the architecture.

    Raises:
        ValueError: There is no model of that name, or the checkpoint is of another architecture.
        course_utils.verified.DamagedFileError: Its checkpoint is missing or damaged.
    """
    model = build_model(name)
    weights = load_weights(verified.read(f"checkpoints/{checkpoint or name}.safetensors"))
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    if {key: value.shape for key, value in weights.items()} != wanted:
        raise ValueError(f"The checkpoint {checkpoint!r} is not of the architecture {name!r}.")
    model.load_state_dict(weights)
    return model.eval()
