"""A small encoder of BERT's kind (Devlin et al., 2019, arXiv 1810.04805), written out.

It takes token ids as float32, which holds whole numbers up to 16 million exactly, and returns the
logits of a classification: so every runtime, sweep and measurement of the course, which hand on
batches of float32, takes it as it takes a network for images.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import datasets, fetch, models, verified
from course_utils.wordpiece import WordPiece

PRETRAINED = "encoder_pretrained"
EMBEDDINGS = "tokens.weight"  # the same in all encoders of the course: stored once
IN_BERT = {  # what its checkpoints call the layers of a block
    **{f"attention.{part}": f"attention.self.{part}" for part in ("query", "key", "value")},
    **{"attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm"},
    **{"up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"},
}
HIDDEN = -1000.0  # added to the score of a [PAD]: its exp is 0, and it stays finite


@dataclass(frozen=True)
class Sizes:
    """How large an encoder is.

    Attributes:
        vocabulary: Number of pieces.
        positions: Most tokens of a text.
        width: Numbers for each token between the blocks.
        heads: Attention heads of each block; its length is the number of blocks.
        head_width: Numbers for each token in one head.
        neurons: Of the feed-forward part of each block.
        classes: Of the classification; 0 for none, so that a text's vector is returned.
    """

    vocabulary: int
    positions: int
    width: int
    heads: tuple[int, ...]
    head_width: int
    neurons: tuple[int, ...]
    classes: int


class Attention(nn.Module):
    """Each token takes up what it finds in the others (Vaswani et al., 2017, arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)

    def attend(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares, (batch, heads, length, length), that sum to 1 in rows, and values."""
        length = hidden.shape[3]
        layers = self.query, self.key, self.value
        parts = (layer(x).view(-1, length, self.heads, self.head_width) for layer in layers)
        query, key, value = (part.transpose(1, 2) for part in parts)  # (batch, heads, length, ...)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.head_width)
        return (scores + hidden).softmax(dim=3), value

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return (batch * length, width) of the same; ``hidden`` is added to the scores."""
        shares, value = self.attend(x, hidden)
        found = (shares @ value).transpose(1, 2)  # (batch, length, heads, head_width)
        mixed: Tensor = self.out(found.flatten(2).flatten(0, 1))  # (batch * length, width)
        return mixed


class Block(nn.Module):
    """Attention between tokens, then two layers for each token; a shortcut around both."""

    def __init__(self, width: int, heads: int, head_width: int, neurons: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, neurons)
        self.down = nn.Linear(neurons, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return (batch * length, width) of the same; see ``Attention``."""
        x = self.norm1(x + self.attention(x, hidden))  # (batch * length, width)
        y: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return y


class Encoder(nn.Module):
    """Embeddings, blocks, the mean over a text's tokens, and a linear classifier.

    Between the blocks all tokens of a batch stand in one matrix: a linear layer is one product.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Parameter(torch.zeros(sizes.positions, sizes.width))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.blocks = nn.ModuleList(
            Block(sizes.width, heads, sizes.head_width, neurons)
            for heads, neurons in zip(sizes.heads, sizes.neurons, strict=True)
        )
        self.head = nn.Linear(sizes.width, sizes.classes) if sizes.classes else nn.Identity()

    def encode(self, ids: Tensor) -> Tensor:
        """Return a vector for each token, (batch, length, width)."""
        length = ids.shape[1]
        hidden = ids.eq(0).float()[:, None, None] * HIDDEN  # (batch, 1, 1, length), for [PAD]
        positions = self.positions[:length] if self.training else self.positions
        x = self.norm(self.tokens(ids.long()) + positions).flatten(0, 1)  # (batch * length, width)
        for block in self.blocks:
            x = block(x, hidden)
        tokens: Tensor = x.view(-1, length, self.sizes.width)
        return tokens

    def embed(self, ids: Tensor) -> Tensor:
        """Return a vector for each text, (batch, width): the mean over its tokens without [PAD]."""
        weights = ids.ne(0).float()[:, :, None] + 1e-9  # of [PAD] alone, the mean is theirs
        return (self.encode(ids) * weights).sum(dim=1) / weights.sum(dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, classes) of token ids (batch, positions), float32.

        Only in training may all texts be shorter than ``positions``: an exported graph has one.
        """
        logits: Tensor = self.head(self.embed(ids))
        return logits


class MaskedLanguageModel(nn.Module):
    """What pre-trains an encoder: it guesses hidden tokens from those around them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        width = encoder.sizes.width
        self.encoder = encoder
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(encoder.sizes.vocabulary))

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        """Return logits (hidden tokens, vocabulary) for the tokens where ``at`` is true."""
        x = self.encoder.encode(ids)[at]  # (hidden tokens, width)
        x = self.norm(F.gelu(self.transform(x)))
        logits: Tensor = x @ self.encoder.tokens.weight.T + self.bias  # they serve twice
        return logits


def build_encoder(sizes: Sizes, seed: int = 0) -> Encoder:
    """Return an encoder with weights drawn as BERT's: normal, of standard deviation 0.02."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(sizes)
        for module in encoder.modules():
            if isinstance(module, Encoder):
                nn.init.normal_(module.positions, std=0.02)
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
    return encoder


def load_encoder(name: str) -> Encoder:
    """Return an encoder of the course, in evaluation mode on the CPU.

    Args:
        name: Of the file in ``data/checkpoints``: "encoder_pretrained", whose head is not trained,
            or one that was fine-tuned, "encoder_glosses" or e.g. "encoder_glosses_pruned40".

    Raises:
        ValueError: There is no such encoder.
        course_utils.verified.DamagedFileError: Its file is missing or damaged.
    """
    listed = map(Path, verified.published_digests())
    known = sorted(path.stem for path in listed if path.match("checkpoints/encoder_*.safetensors"))
    if name not in known:
        raise ValueError(f"There is no encoder {name!r}; choose one of {known}.")
    pretrained = load_masked_model().encoder
    if name == PRETRAINED:
        return pretrained
    return read_encoder(verified.read(f"checkpoints/{name}.safetensors"), pretrained.tokens.weight)


def read_encoder(content: bytes, embeddings: Tensor) -> Encoder:
    """Return the encoder in a file of ``save_encoder``, in evaluation mode on the CPU.

    Args:
        content: Of the file.
        embeddings: Of the tokens, which it leaves out: (vocabulary, width).
    """
    state, sizes = _unpack(content)
    encoder = Encoder(sizes)
    encoder.load_state_dict({**state, EMBEDDINGS: embeddings})
    return encoder.eval()


def load_masked_model() -> MaskedLanguageModel:
    """Return the pre-trained encoder with the head that guesses hidden tokens.

    Raises:
        course_utils.verified.DamagedFileError: Its file is missing or damaged.
    """
    state, sizes = _unpack(verified.read(f"checkpoints/{PRETRAINED}.safetensors"))
    model = MaskedLanguageModel(build_encoder(sizes))
    model.load_state_dict(state)
    return model.eval()


def save_encoder(
    model: Encoder | MaskedLanguageModel, file: Path, about: Mapping[str, str], bits: int = 16
) -> None:
    """Write an encoder: matrices in few bits, zeros as one bit each; embeddings once.

    Args:
        model: A fine-tuned encoder, whose token embeddings must be those of "encoder_pretrained"
            and are left out; or the pre-trained model with all it has.
        file: A ``.safetensors`` file.
        about: What a reader of the file should know, e.g. the recipe.
        bits: 16 for float16, or 8; see ``prune.checkpoints.pack_tensors``.
    """
    from course_utils.prune.checkpoints import pack_tensors  # `prune` removes heads of encoders

    sizes = json.dumps(asdict((model if isinstance(model, Encoder) else model.encoder).sizes))
    state = {name: value for name, value in model.state_dict().items() if name != EMBEDDINGS}
    tensors, shapes = pack_tensors(state, bits)
    content = save(tensors, {**about, "sizes": sizes, "shapes": json.dumps(shapes)})
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)


def _unpack(content: bytes) -> tuple[dict[str, Tensor], Sizes]:
    from course_utils.prune.checkpoints import unpack_tensors

    about = models.read_metadata(content)
    noted = json.loads(about["sizes"])
    sizes = Sizes(**{**noted, "heads": tuple(noted["heads"]), "neurons": tuple(noted["neurons"])})
    return unpack_tensors(load(content), json.loads(about["shapes"])), sizes


def is_minilm_here() -> bool:
    """Return whether all-MiniLM-L6-v2 was fetched to this machine."""
    return fetch.is_here("minilm")


def load_minilm(positions: int = datasets.GLOSS_LENGTH) -> Encoder:
    """Return all-MiniLM-L6-v2, which turns a text into a vector, in evaluation mode on the CPU.

    Six blocks of a pre-trained BERT of width 384 (Wang et al., 2020, arXiv 2002.10957), trained by
    sentence-transformers to give texts of like meaning like vectors. Compare them by their cosine.

    Args:
        positions: Tokens of a text, at most 512.

    Raises:
        course_utils.fetch.NotFetchedError: It is not here; the message names the command.
        ValueError: It has not so many positions.
    """
    if not 3 <= positions <= 512:
        raise ValueError(f"MiniLM reads texts of 3 to 512 tokens, not of {positions}.")
    stored = load(fetch.read("minilm", "model.safetensors"))
    sizes = Sizes(30522, positions, 384, (12,) * 6, 32, (1536,) * 6, classes=0)
    encoder = Encoder(sizes)
    tokens, places, kinds = (
        stored[f"embeddings.{part}_embeddings.weight"]
        for part in ("word", "position", "token_type")
    )
    state = {EMBEDDINGS: tokens, "positions": places[:positions] + kinds[0]}  # alone: first kind
    for ours, theirs in _names_in_bert(len(sizes.heads)).items():
        for part in ("weight", "bias"):
            state[f"{ours}.{part}"] = stored[f"{theirs}.{part}"]
    encoder.load_state_dict(state)
    return encoder.eval()


def load_minilm_vocabulary() -> WordPiece:
    """Return the tokenizer of MiniLM, which is BERT's; without it, see ``load_minilm``."""
    return WordPiece(fetch.read("minilm", "vocab.txt").decode().splitlines())


def _names_in_bert(blocks: int) -> dict[str, str]:
    """Return what the checkpoints of BERT call each layer."""
    pairs = [(block, *pair) for block in range(blocks) for pair in IN_BERT.items()]
    names = {
        f"blocks.{block}.{ours}": f"encoder.layer.{block}.{theirs}" for block, ours, theirs in pairs
    }
    return {"norm": "embeddings.LayerNorm", **names}
