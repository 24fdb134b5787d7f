"""Hidden words: how many, where, and what a guess is worth."""

import math

import numpy as np
import pytest
import torch

from course_utils import masked_words
from course_utils.datasets import TextSplit, load_vocabulary
from course_utils.encoder import MaskedLanguageModel, Sizes, build_encoder
from course_utils.wordpiece import MASK

TEXTS = [
    "a small animal that catches mice", "run very fast", "the feeling of having lost something",
    "a tool for cutting bread", "of or relating to the sea", "move through the air",
] * 20  # fmt: skip
LENGTH = 16


@pytest.fixture(scope="module")
def split() -> TextSplit:
    rows = [load_vocabulary().encode(text, LENGTH) for text in TEXTS]
    return TextSplit(np.array(rows, np.float32), np.zeros(len(TEXTS), np.int64), tuple(TEXTS))


@pytest.fixture(scope="module")
def model() -> MaskedLanguageModel:
    pieces = len(load_vocabulary().pieces)
    return MaskedLanguageModel(build_encoder(Sizes(pieces, LENGTH, 8, (2,), 4, (16,), 3))).eval()


def hide(split: TextSplit) -> tuple[torch.Tensor, ...]:
    ids = torch.from_numpy(split.images).long()
    generator = torch.Generator().manual_seed(0)
    return ids, *masked_words.hide_words(ids, load_vocabulary(), generator)


def test_only_words_are_hidden_and_about_every_seventh(split):
    ids, shown, at = hide(split)
    tokenizer = load_vocabulary()
    special = torch.tensor([0, tokenizer.ids["[CLS]"], tokenizer.ids["[SEP]"]])
    assert not torch.isin(ids[at], special).any()
    words = int((~torch.isin(ids, special)).sum())
    assert int(at.sum()) == pytest.approx(0.15 * words, rel=0.25)
    assert torch.equal(shown[~at], ids[~at])


def test_most_of_them_are_masked_and_a_few_are_not(split):
    ids, shown, at = hide(split)
    masked = (shown[at] == load_vocabulary().ids[MASK]).float().mean()
    same = (shown[at] == ids[at]).float().mean()
    assert 0.6 < masked < 0.95
    assert 0 < same < 0.3


def test_without_training_a_guess_is_worth_as_much_as_chance(split, model):
    loss = masked_words.measure_loss(model, split, load_vocabulary())
    assert loss.unit == "nats"
    assert loss.value == pytest.approx(math.log(len(load_vocabulary().pieces)), rel=0.05)
    assert loss.low < loss.value < loss.high
    assert f"{loss.count:,} hidden words" in loss.note


def test_the_same_words_are_hidden_each_time(split, model):
    first, second = (masked_words.measure_loss(model, split, load_vocabulary()) for _ in range(2))
    assert (first.value, first.count) == (second.value, second.count)


def test_too_few_texts_are_named(split, model):
    empty = TextSplit(split.images[:1] * 0, split.labels[:1], ("",))
    with pytest.raises(ValueError, match="no word was hidden; give more"):
        masked_words.measure_loss(model, empty, load_vocabulary())
