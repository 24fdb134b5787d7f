"""Networks that articles and data sheets speak of, for their shapes: their weights are drawn.

They tell what a layer costs and how long it takes; what they answer means nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.layer_costs import LayerCost, ModelCosts

STAGES = {64: 3, 128: 4, 256: 6, 512: 3}  # of ResNet-50: channels inside a block, and blocks
EXPANSION = 4


class Bottleneck(nn.Module):
    """A 3×3 convolution between two of 1×1 that narrow and widen it, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        return F.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 in version 1.5, the stride in the 3×3 convolution (He et al., 2016, 1512.03385).

    25.6 million parameters; 4.1 billion multiply-adds for an image (3, 224, 224). It is the
    image classifier of MLPerf inference.
    """

    def __init__(self, classes: int = 1000, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__()
            self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.norm = nn.BatchNorm2d(64)
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
            blocks, channels_in = [], 64
            for channels, count in STAGES.items():
                for number in range(count):
                    stride = 2 if number == 0 and channels > 64 else 1
                    blocks.append(Bottleneck(channels_in, channels, stride))
                    channels_in = EXPANSION * channels
            self.blocks = nn.Sequential(*blocks)
            self.head = nn.Linear(channels_in, classes)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - torch's
        x = self.pool(F.relu(self.norm(self.stem(images))))  # (batch, 64, 56, 56)
        x = self.blocks(x)  # (batch, 2048, 7, 7)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def count_decoder_step(
    *,
    blocks: int = 32,
    width: int = 4096,
    inside: int = 11008,
    vocabulary: int = 32000,
    context: int = 1000,
    bytes_per_weight: float = 2,
    bytes_per_activation: float = 2,
) -> ModelCosts:
    """Count what it costs a language model to write one token, for one sequence.

    The matrices of a decoder of the Llama kind (Touvron et al., 2023, arXiv 2302.13971): four
    for attention and three for the gated layer in each block, and the one that chooses the word.
    The defaults are those of the 7B model. Attention also reads a key and a value of each earlier
    token in each block; they belong to the text, so a batch of texts has as many times as much.

    Args:
        blocks: Transformer blocks.
        width: Of the residual stream.
        inside: Width inside of the gated layer.
        vocabulary: Tokens to choose from.
        context: Tokens that the text has already.
        bytes_per_weight: 4 for fp32, 2 for 16 bits, 1 for int8.
        bytes_per_activation: Likewise.
    """
    shapes = {name: (width, width) for name in ("query", "key", "value", "merge")}
    shapes |= {"gate": (width, inside), "up": (width, inside), "down": (inside, width)}
    named = {f"{n}.{name}": shape for n in range(blocks) for name, shape in shapes.items()}
    named["words"] = (width, vocabulary)
    layers = [
        LayerCost(
            name=name,
            kind="linear",
            macs=given * made,
            parameters=given * made,
            weight_bytes=round(given * made * bytes_per_weight),
            input_bytes=round(given * bytes_per_activation),
            output_bytes=round(made * bytes_per_activation),
            live_bytes=round((given + made) * bytes_per_activation),
        )
        for name, (given, made) in named.items()
    ]
    kept = 2 * context * width  # keys and values of one block
    kept_bytes = round(kept * bytes_per_activation)
    for n in range(blocks):
        attention = LayerCost(
            name=f"{n}.attention",
            kind="attention",
            macs=kept,
            parameters=0,
            weight_bytes=0,
            input_bytes=kept_bytes + round(width * bytes_per_activation),
            output_bytes=round(width * bytes_per_activation),
            live_bytes=blocks * kept_bytes,  # those of all blocks stay from token to token
        )
        layers.insert(n * (len(shapes) + 1) + 3, attention)  # after the query, key and value
    return ModelCosts(layers, sum(layer.weight_bytes for layer in layers))
