"""Hide some words of a text and let a pre-trained encoder guess them (Devlin et al., 2019).

That is how it was pre-trained, and how well it still does tells what is left of that.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.datasets import TextSplit
from course_utils.encoder import MaskedLanguageModel
from course_utils.measure import Measurement, measured_now
from course_utils.wordpiece import MASK, SPECIAL, WordPiece

HIDDEN_SHARE, MASKED, REPLACED = 0.15, 0.8, 0.1
BATCH = 500
SEED = 2026


def hide_words(
    ids: Tensor, tokenizer: WordPiece, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return token ids with some hidden, and where they are: both of the shape of the ids.

    BERT's 15 % of the tokens have to be guessed: of these 80 % become [MASK], 10 % another token,
    and 10 % stay as they are.

    Args:
        ids: (texts, tokens) int64.
        tokenizer: Whose ids they are.
        generator: The only source of randomness.
    """
    drawn = torch.rand(ids.shape, generator=generator)
    kind = torch.rand(ids.shape, generator=generator)
    is_word = (ids != 0) & (ids != tokenizer.ids["[CLS]"]) & (ids != tokenizer.ids["[SEP]"])
    at = is_word & (drawn < HIDDEN_SHARE)
    others = torch.randint(len(SPECIAL), len(tokenizer.pieces), ids.shape, generator=generator)
    shown = torch.where(at & (kind < MASKED), tokenizer.ids[MASK], ids)
    shown = torch.where(at & (kind >= 1 - REPLACED), others, shown)
    return shown, at


@torch.inference_mode()
def measure_loss(model: MaskedLanguageModel, split: TextSplit, tokenizer: WordPiece) -> Measurement:
    """Return the mean cross-entropy of hidden tokens, in nats, with its standard error.

    The same tokens are hidden for every model. A guess by chance costs the logarithm of the number
    of pieces.

    Args:
        model: An encoder with the head that guesses.
        split: Texts that it was not trained on.
        tokenizer: That of the split.

    Raises:
        ValueError: No token is hidden, since there are too few texts.
    """
    generator = torch.Generator().manual_seed(SEED)
    losses = []
    for rows in torch.split(torch.from_numpy(split.images).long(), BATCH):
        shown, at = hide_words(rows, tokenizer, generator)
        losses.append(F.cross_entropy(model(shown.float(), at), rows[at], reduction="none"))
    each = torch.cat(losses)
    if not len(each):
        raise ValueError(f"In {len(split)} texts no word was hidden; give more.")
    loss, error = float(each.mean()), float(each.std()) / math.sqrt(len(each))
    note = (
        f"± {error:.2f} on {len(each):,} hidden words; e to the power of it: {math.exp(loss):.0f}"
    )
    return Measurement(
        loss, "nats", loss - error, loss + error, len(each), measured_now(), note=note
    )
