"""Train the students of lesson 05, alone and distilled: ``students_*.safetensors``.

    python data/make/students.py --source FOLDER --work FOLDER [PART OF A NAME ...]
    python data/make/students.py --source FOLDER --work FOLDER --prune
    python data/make/students.py --source FOLDER --work FOLDER --bundle

The source holds the four published files of Fashion-MNIST (in Debian: the package
``dataset-fashion-mnist``). ``work`` keeps each run, and the teachers' answers; training goes on
where it broke off, and what is there is not trained again. Students named ``full_...`` learn from
all 60,000 training images, the others from the 12,000 that the course ships. ``--prune`` cuts one
of the taught students, ``--bundle`` writes the files of the course. One core of a 2024 server CPU
takes 14 s for an epoch of the width of 32 on 60,000 images.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_utils import datasets, distill, models, prune
from course_utils.distill.students import NETWORKS, Student, save_students
from course_utils.training import Recipe, evaluate
from idx import read_tensors
from packing import FLOATS, pack_

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
TEACHER = "resnet8_w64_fashion"
SEEDS = (0, 1, 2)
SIZES = (  # network, width, epochs
    ("DS-CNN", 12, 8),
    ("DS-CNN", 20, 8),
    ("DS-CNN", 32, 8),
    ("DS-CNN", 40, 8),
    ("ResNet-8", 14, 16),
)
TEMPERATURES = (1, 2, 4, 7, 12, 20)
FEW = (500, 2000)  # images, where labels are scarce
OTHER_TEACHERS = ("lenet_300_100_fashion", "resnet8_w16_fashion", "resnet8_w32_fashion")
HINT = ("block3", "block2")  # of the student, of the teacher: both (14, 14)
VIEWS = distill.Views(count=4, flip=True)
SHIPPED_VIEWS = replace(VIEWS, count=2)  # of the answers that a lesson needs
ALL, SHIPPED = 60_000, 12_000
CHAIN_WIDTH, CHAIN_KEPT = 40, 0.8
CHAIN_RECIPE = Recipe(epochs=6, peak_learning_rate=0.1, weight_decay=1e-4)


@dataclass(frozen=True)
class Run:
    """How a student is trained.

    Attributes:
        network: A key of ``students.NETWORKS``.
        width: Its number of channels.
        seed: Of its first weights and of the order of the images.
        images: How many it learns from, the first of its split.
        epochs: Over these images.
        teacher: None: alone.
        temperature: Of the teacher's answers.
        hard_share: Of the labels.
        hint_epochs: Before them, those that only match features of the teacher.
    """

    network: str
    width: int
    seed: int
    images: int
    epochs: int = 10
    teacher: str | None = None
    temperature: float = 4.0
    hard_share: float = 0.1
    hint_epochs: int = 0

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch=min(128, self.images // 4),
            peak_learning_rate=0.4,
            weight_decay=1e-4,
            flip=VIEWS.flip,
            shift_pixels=VIEWS.shift_pixels,
            erase_pixels=VIEWS.erase_pixels,
            seed=self.seed,
        )

    @property
    def group(self) -> str:
        """The file that it goes to."""
        return "students_fashion" if self.images == ALL else "students_fashion_few"


def make_runs() -> dict[str, Run]:
    """Return all runs by name."""
    runs = {}
    for seed in SEEDS:
        for network, width, epochs in SIZES:
            name, alone = f"full_{network.lower()}_w{width}", Run(network, width, seed, ALL, epochs)
            runs[f"{name}_alone_seed{seed}"] = alone
            runs[f"{name}_taught_seed{seed}"] = replace(alone, teacher=TEACHER)
        few = Run("DS-CNN", 20, seed, SHIPPED)
        taught = replace(few, teacher=TEACHER)
        runs[f"few_alone_seed{seed}"] = few
        for temperature in TEMPERATURES:
            runs[f"few_t{temperature}_seed{seed}"] = replace(taught, temperature=temperature)
        for teacher in OTHER_TEACHERS:
            runs[f"few_by_{teacher}_seed{seed}"] = replace(few, teacher=teacher)
        runs[f"few_hinted_seed{seed}"] = replace(taught, hint_epochs=3, epochs=7)
        for count in FEW:  # about as many steps as with all that are shipped
            steps = few.epochs * (SHIPPED // few.recipe.batch)
            less = replace(few, images=count)
            less = replace(less, epochs=steps // (count // less.recipe.batch))
            runs[f"few_{count}_alone_seed{seed}"] = less
            runs[f"few_{count}_taught_seed{seed}"] = replace(less, teacher=TEACHER)
    return runs


def train_run(name: str, run: Run, lessons: tuple[Tensor, Tensor], work: Path) -> nn.Module:
    """Return the trained student of a run."""
    images, labels = (part[: run.images] for part in lessons)
    classes = datasets.FASHION_CLASSES
    settings = {
        "on_epoch": lambda epoch, loss, model: print(name, epoch, f"{loss:.4f}", flush=True),
        "precision": "bf16" if run.network == "ResNet-8" else "fp32",  # each where it is quicker
    }
    state_file = work / f"{name}.train_state"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        student = NETWORKS[run.network](run.width)
    if run.teacher is None:
        return distill.train_alone(
            student, images, labels, run.recipe, VIEWS, state_file=state_file, **settings
        )
    teacher = models.load_pretrained(run.teacher)
    answers = distill.cache_answers(
        teacher,
        images,
        classes,
        VIEWS,
        file=work / f"answers_{run.teacher}_{run.images}.safetensors",
        precision="bf16",
    )
    if run.hint_epochs:
        first = Recipe(**{**asdict(run.recipe), "epochs": run.hint_epochs})
        layer, theirs = HINT
        student = distill.train_hints(
            student, layer, teacher, theirs, images, labels, first, VIEWS, **settings
        )
    return distill.train_student(
        student,
        images,
        labels,
        run.recipe,
        answers,
        classes,
        temperature=run.temperature,
        hard_share=run.hard_share,
        state_file=state_file,
        **settings,
    )


def main() -> None:
    runs = make_runs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PART", help="of the names of runs; all")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--skip", nargs="*", default=[], metavar="PART", help="leave these out")
    parser.add_argument("--bundle", action="store_true", help="write the files of the course")
    parser.add_argument("--prune", action="store_true", help="cut a taught student, teach it on")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.bundle:
        ship_answers()
        bundle(runs, arguments.work)
        return
    chosen = {
        name: run for name, run in runs.items()
        if (not arguments.names or any(part in name for part in arguments.names))
        and not any(part in name for part in arguments.skip)
    }  # fmt: skip
    full, test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))
    shipped = datasets.load_fashion().train
    if arguments.prune:
        prune_student(full, arguments.work)
        return
    few = torch.from_numpy(shipped.images), torch.from_numpy(shipped.labels)
    for name, run in chosen.items():
        file = arguments.work / f"{name}.safetensors"
        if file.exists():
            continue
        lessons = full if run.images == ALL else few
        model = train_run(name, run, lessons, arguments.work)
        accuracy = evaluate(model, *test)
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(weights, file, {"test_accuracy": f"{accuracy:.4f}"})
        (arguments.work / f"{name}.train_state").unlink(missing_ok=True)
        print(f"{name}: {accuracy:.2%} of the test images", flush=True)


def prune_student(lessons: tuple[Tensor, Tensor], work: Path) -> None:
    """Cut a fifth of the channels of a taught student, and teach what is left of it."""
    start = models.DSCNN(CHAIN_WIDTH)
    start.load_state_dict(load_file(work / f"full_ds-cnn_w{CHAIN_WIDTH}_taught_seed0.safetensors"))
    start = start.eval()
    scores = prune.score_channels(start, by="group")
    cut = prune.prune_channels(start, CHAIN_KEPT, round_to=8, scores=scores)
    classes = datasets.FASHION_CLASSES
    file = work / f"answers_{TEACHER}_{ALL}.safetensors"
    teacher = models.load_pretrained(TEACHER)
    answers = distill.cache_answers(
        teacher, lessons[0], classes, VIEWS, file=file, precision="bf16"
    )
    model = distill.train_student(
        cut, *lessons, CHAIN_RECIPE, answers, classes,
        state_file=work / "chain.train_state",
        on_epoch=lambda epoch, loss, model: print("chain", epoch, f"{loss:.4f}", flush=True),
    )  # fmt: skip
    name = f"ds_cnn_w{CHAIN_WIDTH}_fashion"
    file = CHECKPOINTS / f"{name}_pruned_keep{round(100 * CHAIN_KEPT)}.safetensors"
    about = {"recipe": json.dumps(asdict(CHAIN_RECIPE)), "teacher": TEACHER}
    prune.save_pruned(model, file, name, {**about, "torch": torch.__version__})
    print(f"{file.name} is written")


def ship_answers() -> None:
    """Write the teacher's answers about the images that the course ships."""
    images = torch.from_numpy(datasets.load_fashion().train.images)
    file = CHECKPOINTS.parent / "answers" / f"{TEACHER}_train.safetensors"
    teacher = models.load_pretrained(TEACHER)
    distill.cache_answers(
        teacher, images, datasets.FASHION_CLASSES, SHIPPED_VIEWS, file=file, precision="bf16"
    )
    pack_(file, FLOATS)


def bundle(runs: dict[str, Run], work: Path) -> None:
    """Write the students that are there into the files of the course, and their accuracies."""
    test = datasets.load_fashion().test
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    for group in sorted({run.group for run in runs.values()}):
        students = {}
        for name, run in runs.items():
            file = work / f"{name}.safetensors"
            if run.group != group or not file.exists():
                continue
            model = NETWORKS[run.network](run.width)
            model.load_state_dict({key: one.half().float() if one.ndim > 1 else one
                                   for key, one in load_file(file).items()})  # fmt: skip
            about = asdict(run)
            about["test_accuracy"] = round(evaluate(model, images, labels), 4)
            students[name] = Student(model.eval(), about)
            print(name, about["test_accuracy"])
        noted = {
            "views": json.dumps(asdict(VIEWS)),
            "recipe": json.dumps(asdict(next(iter(runs.values())).recipe)),
            "torch": torch.__version__,
        }
        file = CHECKPOINTS / f"{group}.safetensors"
        save_students(students, file, noted)
        pack_(file, FLOATS)


if __name__ == "__main__":
    main()
