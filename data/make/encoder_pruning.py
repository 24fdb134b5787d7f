"""Fine-tune the course's encoder on the glosses, whole and pruned: ``encoder_pruning.json``.

    python data/make/encoder_pruning.py --work FOLDER [NAME ...]
    python data/make/encoder_pruning.py --work FOLDER --record

All start from ``encoder_pretrained`` (see ``pretraining.py``), lose a share of each weight matrix
of the blocks as in Gordon, Duh & Andrews (2020, arXiv 2002.08307), or heads, or blocks, and have
the same recipe. The token embeddings stay as they are, to be stored once. FOLDER keeps the
result of each run; a run that is there is not made again. On one core of a server CPU with bf16
instructions a run takes three minutes. "tfidf", the baseline, needs scikit-learn.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch
from torch import nn

from course_utils import datasets, machine
from course_utils.encoder import (
    Encoder,
    MaskedLanguageModel,
    Sizes,
    build_encoder,
    load_masked_model,
    read_encoder,
    save_encoder,
)
from course_utils.finetuning import TextRecipe, finetune
from course_utils.masked_words import measure_loss
from course_utils.models import count_parameters, describe_training
from course_utils.prune.heads import choose_heads, keep_blocks, keep_heads, score_heads
from course_utils.prune.holding import hold_zeros, release_zeros
from course_utils.prune.magnitude import find_weights, prune_weights

DATA = Path(__file__).parent.parent
RECORD = DATA / "recorded" / "encoder_pruning.json"
NAME = "encoder_glosses"
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)
BLOCKS, HEADS = 2, 16  # that are left where some are removed
SMALL_HEADS, SMALL_NEURONS = (4, 4), (264, 264)  # as many weights as 80 % zeros leave
LONGER = TextRecipe(epochs=5)  # of "longer": as dense, to teach others
NOT_SHIPPED = ("small", "scratch", "random_blocks", "all_trained")
TRAIN_PROBE = 4000  # definitions of the train split: can a network still fit them?


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", action="store_true", help="write and measure old runs again")
    parser.add_argument("--bits", type=int, default=16, choices=(8, 16), help="of a stored weight")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    glosses = datasets.load_glosses()
    for name in arguments.names:
        result = arguments.work / f"{name}.json"
        if name == "tfidf" and not result.exists():
            result.write_text(json.dumps(measure_tfidf(glosses)))
        elif name != "tfidf" and not result.exists():
            run = finetune_one(name, arguments.work, glosses)
            result.write_text(
                json.dumps(run | store_one(name, arguments.work, glosses, arguments.bits))
            )
        elif arguments.store and name != "tfidf":
            run = json.loads(result.read_text())
            result.write_text(
                json.dumps(run | store_one(name, arguments.work, glosses, arguments.bits))
            )
        print(name, result.read_text(), flush=True)
    if arguments.record:
        record(arguments.work)


def list_runs() -> list[str]:
    pruned = [f"pruned{round(100 * share)}" for share in SHARES]
    smaller = [f"blocks{BLOCKS}", f"heads{HEADS}", "small"]
    controls = ["all_trained", "random_blocks", "scratch", "tfidf"]
    return ["dense", *pruned, *smaller, *controls, "longer"]


def choose_recipe(name: str) -> TextRecipe:
    return LONGER if name == "longer" else TextRecipe()


def prepare(name: str, masked: MaskedLanguageModel, glosses: datasets.Glosses) -> Encoder:
    """Return the encoder that a run starts from."""
    encoder = masked.encoder
    encoder.tokens.weight.requires_grad_(False)
    if name.startswith("pruned"):
        share = int(name.removeprefix("pruned")) / 100
        layers = [layer for layer in find_weights(encoder) if layer.startswith("blocks.")]
        return prune_weights(encoder, share, scope="layer", layers=layers)
    if name.startswith("blocks"):
        return keep_blocks(encoder, range(BLOCKS))
    if name.startswith("heads"):  # those that the fine-tuned one needs most
        tuned = read_encoder(
            (DATA / "checkpoints" / f"{NAME}.safetensors").read_bytes(), encoder.tokens.weight
        )
        part = glosses.train.first(2000)
        scores = score_heads(tuned, torch.tensor(part.images), torch.tensor(part.labels))
        return keep_heads(encoder, choose_heads(scores, HEADS))
    if name in ("small", "random_blocks"):  # on the pre-trained embeddings
        sizes = encoder.sizes
        if name == "small":
            sizes = replace(sizes, heads=SMALL_HEADS, neurons=SMALL_NEURONS)
        drawn = build_encoder(sizes)
        for part in ("tokens", "norm"):
            getattr(drawn, part).load_state_dict(getattr(encoder, part).state_dict())
        drawn.positions.data.copy_(encoder.positions.data)
        drawn.tokens.weight.requires_grad_(False)
        return drawn
    if name == "scratch":  # nothing pre-trained, not even the embeddings
        return build_encoder(encoder.sizes, seed=1)
    if name == "all_trained":
        encoder.tokens.weight.requires_grad_(True)
        return encoder
    if name in ("dense", "longer"):
        return encoder
    raise ValueError(f"There is no run {name!r}; there are {list_runs()}.")


def finetune_one(name: str, work: Path, glosses: datasets.Glosses) -> dict[str, object]:
    """Return what was known before and during the fine-tuning; its weights go into the folder."""
    masked = load_masked_model()
    start = prepare(name, masked, glosses)
    weights = torch.cat([weight.flatten() for weight in find_weights(start.blocks).values()])
    run: dict[str, object] = {
        "name": name,
        "parameters": count_parameters(start),
        "block_weights": len(weights),
        "zero_block_weights": int((weights == 0).sum()) if is_pruned(start) else 0,
        "heads": start.sizes.heads,
        "neurons": start.sizes.neurons,
    }
    if name not in NOT_SHIPPED:
        masked.encoder = start
        loss = measure_loss(masked.eval(), glosses.validation, glosses.tokenizer).value
        run |= {"mlm_loss": round(loss, 4), "mlm_perplexity": round(math.exp(loss), 2)}
        print(name, run, flush=True)
    began = time.monotonic()
    tuned = finetune_held(start, glosses.train, choose_recipe(name))
    torch.save({"sizes": asdict(tuned.sizes), "state": tuned.state_dict()}, work / f"{name}.pt")
    return run | {"train_seconds": round(time.monotonic() - began)}


def store_one(name: str, work: Path, glosses: datasets.Glosses, bits: int) -> dict[str, object]:
    """Write an encoder to ``data/checkpoints`` if it ships; return its accuracies as it is read."""
    kept = torch.load(work / f"{name}.pt", weights_only=True)
    tuned = Encoder(Sizes(**kept["sizes"]))
    tuned.load_state_dict(kept["state"])
    if name in NOT_SHIPPED:
        return measure(tuned, glosses)
    file = DATA / "checkpoints" / f"{NAME if name == 'dense' else f'{NAME}_{name}'}.safetensors"
    about = {"recipe": json.dumps(asdict(choose_recipe(name))), "start": "encoder_pretrained"}
    about |= {"torch": torch.__version__}
    save_encoder(tuned, file, about, bits)
    found = measure(read_encoder(file.read_bytes(), tuned.tokens.weight), glosses)
    save_encoder(tuned, file, {**about, "test_accuracy": f"{found['test_accuracy']:.4f}"}, bits)
    return {"file": file.name, "size_bytes": file.stat().st_size, "bits": bits, **found}


def is_pruned(encoder: Encoder) -> bool:
    """Return whether some weights were taken out; one in a million is 0 because float16 ends."""
    weights = torch.cat([weight.flatten() for weight in find_weights(encoder.blocks).values()])
    return float((weights == 0).float().mean()) > 0.01


def measure(encoder: Encoder, glosses: datasets.Glosses) -> dict[str, float]:
    """Return the accuracy on test, validation and a part of the train split, in fp32."""
    splits = {"test": glosses.test, "validation": glosses.validation}
    splits["train"] = glosses.train.first(TRAIN_PROBE)
    return {f"{part}_accuracy": count_right(encoder, split) for part, split in splits.items()}


@torch.inference_mode()
def count_right(encoder: Encoder, split: datasets.TextSplit) -> float:
    """Return the share classified as labelled; texts of about a length together, which is quick."""
    ids, labels = torch.tensor(split.images), torch.tensor(split.labels)
    encoder.train()  # takes batches that are cut to their longest text; there is no dropout
    right = 0
    for rows in ids.ne(0).sum(dim=1).argsort().split(100):
        batch = ids[rows]
        logits = encoder(batch[:, : int(batch.ne(0).sum(dim=1).max())])
        right += int((logits.argmax(dim=1) == labels[rows]).sum())
    encoder.eval()
    return round(right / len(ids), 4)


def finetune_held(start: Encoder, split: datasets.TextSplit, recipe: TextRecipe) -> nn.Module:
    """Return the encoder fine-tuned as a classifier; its zeros stay zero."""

    def tell(epoch: int, loss: float, model: nn.Module) -> None:
        print(f"epoch {epoch}: loss {loss:.4f}", flush=True)

    if not is_pruned(start):
        return finetune(start, split, recipe, on_epoch=tell)
    return release_zeros(finetune(hold_zeros(start), split, recipe, on_epoch=tell))


def measure_tfidf(glosses: datasets.Glosses) -> dict[str, object]:
    """Return the accuracy of word and word-pair counts with a linear classifier."""
    import numpy as np
    import sklearn
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    began = time.monotonic()
    count = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    train = count.fit_transform(glosses.train.texts)
    found = {}
    for strength in (3.0, 10.0, 30.0):  # the choice is the validation split's
        linear = LogisticRegression(C=strength, max_iter=100)
        linear.fit(train, glosses.train.labels)
        score = linear.score(count.transform(glosses.validation.texts), glosses.validation.labels)
        found[score] = strength, linear
        print(f"tfidf C={strength}: validation {score:.4f}", flush=True)
    best = max(found)
    strength, linear = found[best]
    probe = glosses.train.first(TRAIN_PROBE)
    return {
        "name": "tfidf",
        "features": train.shape[1],
        "parameters": int(linear.coef_.size + linear.intercept_.size),
        "C": strength,
        "scikit_learn": sklearn.__version__,
        "train_seconds": round(time.monotonic() - began),
        "test_accuracy": round(
            linear.score(count.transform(glosses.test.texts), glosses.test.labels), 4
        ),
        "validation_accuracy": round(best, 4),
        "train_accuracy": round(linear.score(count.transform(probe.texts), probe.labels), 4),
    }


DEFINITIONS = {
    "zero_block_weights": "zeros among the weights of the blocks' linear layers",
    "mlm_loss": "cross-entropy of hidden tokens, 15 % of the 4,000 validation definitions, after"
    " the pruning and before the fine-tuning: how much of the pre-training is left",
    "mlm_perplexity": "exp of that",
    "test_accuracy": "share of 8,000 definitions; validation: 4,000",
    "train_accuracy": f"share of the first {TRAIN_PROBE:,} definitions of the train split, after"
    " the fine-tuning on all of it: whether the network can fit them",
    "train_seconds": "on a busy machine: to be compared with nothing",
    "pruned": "the smallest weights of each matrix of the blocks are zero, and stay so",
    f"blocks{BLOCKS}": f"only the lower {BLOCKS} blocks are left",
    f"heads{HEADS}": f"only {HEADS} heads are left, those of the highest first-order score in the"
    " fine-tuned encoder",
    "small": "fewer and narrower blocks, of random weights, on the pre-trained embeddings",
    "all_trained": "as dense, but the token embeddings are trained too",
    "random_blocks": "random blocks on the pre-trained embeddings, which stay as they are",
    "scratch": "nothing pre-trained; the token embeddings are trained too: to be compared with"
    " all_trained, as random_blocks with dense",
    "tfidf": "logistic regression on counts of words and pairs of words; C by validation",
}


def record(work: Path) -> None:
    """Write all runs that were made into one file."""
    here = machine.describe()
    about = describe_training("encoder_pretrained")
    head = {
        "what": "an encoder pruned after its pre-training, then fine-tuned on WordNet's glosses",
        "made_by": "data/make/encoder_pruning.py",
        "date": date.today().isoformat(),
        "machine": {"cpu": here.cpu, "threads": 1, "precision": "bf16 autocast, weights fp32"},
        "versions": here.versions,
        "pretraining": {
            "recipe": json.loads(about["recipe"]),
            "validation_mlm_loss": float(about["validation_mlm_loss"]),
        },
        "recipe": asdict(TextRecipe()),
        "definitions": DEFINITIONS,
    }
    runs = [work / f"{name}.json" for name in list_runs()]
    rows = [json.loads(run.read_text()) for run in runs if run.exists()]
    lines = ",\n  ".join(json.dumps(row) for row in rows)  # one for each run, to be readable
    text = f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'
    RECORD.write_text(text, encoding="utf-8")
    print(f"{RECORD.name}: {len(rows)} runs")


if __name__ == "__main__":
    main()
