"""Fine-tune the students of lesson 05 that read texts: ``text_students.json`` and checkpoints.

    python data/make/text_students.py --work FOLDER [NAME ...]
    python data/make/text_students.py --work FOLDER --record

The teacher is ``encoder_glosses_longer``. A student of 1, 2 or 3 blocks starts from the lower
blocks of ``encoder_pretrained``, as its twin without a teacher does; the bag of embeddings starts
from random numbers. "l2_alone_seed0" is 2 blocks, alone; "taught" learns the teacher's answers,
"inside" its hidden states and attention too. FOLDER keeps the result of each run; one that is there
is not made again, one that was broken off goes on. ``--record`` writes the taught students of the
first seed to ``data/checkpoints`` in 8 bits, and the figures of all.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import nn

from course_utils import datasets, distill, machine
from course_utils.bag import BagOfEmbeddings, build_bag, read_bag, save_bag
from course_utils.encoder import (
    Encoder,
    load_encoder,
    load_masked_model,
    read_encoder,
    save_encoder,
)
from course_utils.finetuning import TextRecipe, finetune
from course_utils.models import count_parameters
from course_utils.prune.heads import keep_blocks
from encoder_pruning import count_right

DATA = Path(__file__).parent.parent
RECORD = DATA / "recorded" / "text_students.json"
TEACHER = "encoder_glosses_longer"
SEEDS = (0, 1, 2)
BLOCKS = (1, 2, 3)
RECIPE = TextRecipe()
BAG_RECIPE = TextRecipe(epochs=4, peak_learning_rate=5e-3)
BAG = {"width": 64, "neurons": 256}
TEMPERATURE, HARD_SHARE = 2.0, 0.3


@dataclass(frozen=True)
class Run:
    """How a student is fine-tuned: ``how`` is "alone", "taught" or "inside"."""

    blocks: int  # 0: the bag of embeddings
    how: str
    seed: int


def make_runs() -> dict[str, Run]:
    """Return all runs by name."""
    runs = {}
    for seed in SEEDS:
        for blocks in (2, 0, 1, 3):
            for how in ("alone", "taught", "inside")[: 3 if blocks == 2 else 2]:
                runs[f"l{blocks}_{how}_seed{seed}"] = Run(blocks, how, seed)
    return runs


def build_student(blocks: int, seed: int) -> nn.Module:
    """Return a student as it starts; its token embeddings stay, unless it is the bag."""
    encoder = load_masked_model().encoder
    if blocks == 0:
        sizes = encoder.sizes
        return build_bag(sizes.vocabulary, **BAG, classes=sizes.classes, seed=seed)
    encoder.tokens.weight.requires_grad_(False)
    return keep_blocks(encoder, range(blocks))


def train_run(name: str, run: Run, glosses: datasets.Glosses, work: Path) -> nn.Module:
    """Return the fine-tuned student of a run."""
    start = build_student(run.blocks, run.seed)
    recipe = BAG_RECIPE if run.blocks == 0 else RECIPE
    recipe = TextRecipe(**{**asdict(recipe), "seed": run.seed})

    def tell(epoch: int, loss: float, model: nn.Module) -> None:
        right = count_right(model, glosses.validation)
        print(f"{name}: epoch {epoch}, loss {loss:.4f}, validation {right:.4f}", flush=True)

    settings = {"state_file": work / f"{name}.train_state", "on_epoch": tell}
    if run.how == "alone":
        return finetune(start, glosses.train, recipe, **settings)
    teacher = load_encoder(TEACHER)
    texts = torch.from_numpy(glosses.train.images)
    file = work / f"answers_{TEACHER}.safetensors"
    answers = distill.cache_answers(teacher, texts, glosses.classes, file=file, precision="bf16")
    return distill.finetune_student(
        start,
        glosses.train,
        recipe,
        answers,
        glosses.classes,
        temperature=TEMPERATURE,
        hard_share=HARD_SHARE,
        inside_of=teacher if run.how == "inside" else None,
        **settings,
    )


def main() -> None:
    runs = make_runs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="or a part of it")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.record:
        record(arguments.work, runs)
        return
    glosses = datasets.load_glosses()
    for name, run in runs.items():
        result = arguments.work / f"{name}.json"
        if result.exists() or (arguments.names and not any(p in name for p in arguments.names)):
            continue
        began = time.monotonic()
        tuned = train_run(name, run, glosses, arguments.work)
        found = {
            "name": name,
            **asdict(run),
            "parameters": count_parameters(tuned),
            "test_accuracy": count_right(tuned, glosses.test),
            "validation_accuracy": count_right(tuned, glosses.validation),
            "train_seconds": round(time.monotonic() - began),
        }
        torch.save(tuned.state_dict(), arguments.work / f"{name}.pt")
        result.write_text(json.dumps(found))
        (arguments.work / f"{name}.train_state").unlink(missing_ok=True)
        print(found, flush=True)


DEFINITIONS = {
    "how": "alone: cross-entropy with the labels; taught: the teacher's answers too; inside: also"
    " its hidden states and attention",
    "seed": "of the order of the definitions, and of the bag's first weights; encoders start from"
    " the pre-trained one",
    "test_accuracy": "share of 8,000 definitions, of the network as it was trained; validation:"
    " 4,000",
    "shipped_test_accuracy": "the same, of the file in data/checkpoints, whose weights have 8 bits",
    "train_seconds": "on a busy machine: to be compared with nothing",
}


def record(work: Path, runs: dict[str, Run]) -> None:
    """Write the students that ship, and the figures of all runs that were made."""
    glosses = datasets.load_glosses()
    rows = []
    for name, run in runs.items():
        result = work / f"{name}.json"
        if not result.exists():
            continue
        row = json.loads(result.read_text())
        if run.how == "taught" and run.seed == 0:
            row["shipped_test_accuracy"] = ship(name, run, work, glosses)
        rows.append(row)
    here = machine.describe()
    teacher = load_encoder(TEACHER)
    head = {
        "what": "students of a fine-tuned encoder on WordNet's glosses, and their twins",
        "made_by": "data/make/text_students.py",
        "date": date.today().isoformat(),
        "machine": {"cpu": here.cpu, "threads": 1, "precision": "bf16 autocast, weights fp32"},
        "versions": here.versions,
        "teacher": {
            "name": TEACHER,
            "parameters": count_parameters(teacher),
            "test_accuracy": count_right(teacher, glosses.test),
        },
        "recipe": {"encoders": asdict(RECIPE), "bag": asdict(BAG_RECIPE)},
        "temperature": TEMPERATURE,
        "hard_share": HARD_SHARE,
        "definitions": DEFINITIONS,
    }
    lines = ",\n  ".join(json.dumps(row) for row in rows)  # one for each run, to be readable
    text = f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'
    RECORD.write_text(text, encoding="utf-8")
    print(f"{RECORD.name}: {len(rows)} runs")


def ship(name: str, run: Run, work: Path, glosses: datasets.Glosses) -> float:
    """Write a student to ``data/checkpoints``; return its accuracy as it is read."""
    student = build_student(run.blocks, run.seed)
    student.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True))
    about = {"run": json.dumps(asdict(run)), "teacher": TEACHER, "torch": torch.__version__}
    if isinstance(student, BagOfEmbeddings):
        file = DATA / "checkpoints" / "bag_glosses_taught.safetensors"
        save_bag(student, file, about)
        return count_right(read_bag(file.read_bytes()), glosses.test)
    assert isinstance(student, Encoder)
    file = DATA / "checkpoints" / f"encoder_glosses_taught{run.blocks}.safetensors"
    save_encoder(student, file, about, bits=8)
    return count_right(read_encoder(file.read_bytes(), student.tokens.weight), glosses.test)


if __name__ == "__main__":
    main()
