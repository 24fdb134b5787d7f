"""A bag of embeddings: the simplest network that classifies a text, without order or attention."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import verified
from course_utils.models import read_metadata
from course_utils.prune.checkpoints import pack_tensors, unpack_tensors


class BagOfEmbeddings(nn.Module):
    """The mean of a text's token embeddings, and two layers that classify it.

    As fastText does (Joulin et al., 2017, arXiv 1607.01759), with a hidden layer more and pieces of
    words for words.
    """

    def __init__(self, vocabulary: int, width: int, neurons: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.up = nn.Linear(width, neurons)
        self.head = nn.Linear(neurons, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, classes) of token ids (batch, positions), float32, 0 for [PAD]."""
        weights = ids.ne(0).float()[:, :, None] + 1e-9  # of [PAD] alone, the mean is theirs
        x = (self.tokens(ids.long()) * weights).sum(dim=1) / weights.sum(dim=1)  # (batch, width)
        logits: Tensor = self.head(F.gelu(self.up(x)))
        return logits


def build_bag(
    vocabulary: int, width: int, neurons: int, classes: int, seed: int = 0
) -> BagOfEmbeddings:
    """Return a bag of embeddings with freshly drawn weights.

    Args:
        vocabulary: Number of pieces.
        width: Numbers for each piece.
        neurons: Of the hidden layer.
        classes: Of the classification.
        seed: Of the generator that draws the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bag = BagOfEmbeddings(vocabulary, width, neurons, classes)
        nn.init.normal_(bag.tokens.weight, std=0.1)
    return bag


def load_bag(name: str) -> BagOfEmbeddings:
    """Return a bag of embeddings of the course, in evaluation mode on the CPU.

    Args:
        name: Of the file in ``data/checkpoints``, without its ending.

    Raises:
        course_utils.verified.DamagedFileError: The file is missing or damaged.
    """
    return read_bag(verified.read(f"checkpoints/{name}.safetensors"))


def read_bag(content: bytes) -> BagOfEmbeddings:
    """Return the bag in a file of ``save_bag``, in evaluation mode on the CPU.

    Raises:
        ValueError: It is no such file.
    """
    try:
        about = read_metadata(content)
        sizes, shapes = json.loads(about["sizes"]), json.loads(about["shapes"])
        bag = BagOfEmbeddings(**sizes)
        bag.load_state_dict(unpack_tensors(load(content), shapes))
    except Exception as error:  # safetensors, json and torch have classes of their own
        raise ValueError(f"This is no file of bag.save_bag ({error!s:.80}).") from None
    return bag.eval()


def save_bag(bag: BagOfEmbeddings, file: Path, about: Mapping[str, str]) -> None:
    """Write a bag of embeddings, its matrices as integers of 8 bits; all of it or nothing.

    Args:
        bag: Trained.
        file: A ``.safetensors`` file.
        about: What a reader of the file should know, e.g. the recipe.
    """
    vocabulary, width = bag.tokens.weight.shape
    sizes = {"vocabulary": vocabulary, "width": width}
    sizes |= {"neurons": bag.up.out_features, "classes": bag.head.out_features}
    tensors, shapes = pack_tensors(bag.state_dict(), bits=8)
    content = save(tensors, {**about, "sizes": json.dumps(sizes), "shapes": json.dumps(shapes)})
    part = file.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, file)
