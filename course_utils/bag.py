"""A bag of embeddings: the simplest network that classifies a text, without order or attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def build_bag(vocabulary: int, width: int, neurons: int, classes: int, seed: int = 0) -> nn.Module:
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
