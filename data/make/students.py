"""Train the students of lesson 05, alone and distilled: ``students_*.safetensors``.

    python data/make/students.py --source FOLDER --work FOLDER [PART OF A NAME ...]
    python data/make/students.py --source FOLDER --work FOLDER --bundle

The source holds the four published files of Fashion-MNIST (in Debian: the package
``dataset-fashion-mnist``). ``work`` keeps each run, and the teachers' answers; training goes on
where it broke off, and what is there is not trained again. Students named ``full_...`` learn from
all 60,000 training images, the others from the 12,000 that the course ships. ``--bundle`` writes
the two files. One core of a 2024 server CPU takes 14 s for an epoch of the width of 32 on 60,000
images.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_utils import datasets, distill, models
from course_utils.distill.students import Student, save_students
from course_utils.training import Recipe, evaluate
from idx import read_tensors

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SPINE = "resnet8_w32_fashion"
SEEDS = (0, 1, 2)
WIDTHS = (8, 12, 20, 32, 48)
TEMPERATURES = (1, 2, 3, 4, 6, 8, 12, 20)
FEW_WIDTH = 20
FEW = (500, 2000)  # images, where labels are scarce
OTHER_TEACHERS = ("lenet_300_100_fashion", "resnet8_w16_fashion")
HINT = ("block3", "block2")  # of the student, of the teacher: both (14, 14)
RATE = 0.4
FULL_VIEWS = distill.Views(count=20, flip=True, shift_pixels=2)
FEW_VIEWS = distill.Views(count=10, flip=True, shift_pixels=2)


@dataclass(frozen=True)
class Run:
    """How a student is trained.

    Attributes:
        group: The file that it goes to.
        width: Of its DS-CNN.
        seed: Of its first weights and of the order of the images.
        images: How many it learns from, the first of its split.
        epochs: Over these images.
        teacher: None: alone.
        temperature: Of the teacher's answers.
        hard_share: Of the labels.
        hint_epochs: Before them, those that only match features of the teacher.
    """

    group: str
    width: int
    seed: int
    images: int
    epochs: int
    teacher: str | None = None
    temperature: float = 4.0
    hard_share: float = 0.1
    hint_epochs: int = 0

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            peak_learning_rate=RATE,
            weight_decay=1e-4,
            seed=self.seed,
            batch=min(128, self.images // 4),
        )


def make_runs() -> dict[str, Run]:
    """Return all runs by name."""
    runs = {}
    for seed in SEEDS:
        for width in WIDTHS:
            for how, teacher in (("alone", None), ("taught", SPINE)):
                runs[f"full_w{width}_{how}_seed{seed}"] = Run(
                    "students_fashion", width, seed, 60_000, 20, teacher
                )
        few = {"group": "students_few", "width": FEW_WIDTH, "seed": seed, "epochs": 15}
        runs[f"few_alone_seed{seed}"] = Run(images=12_000, **few)
        for temperature in TEMPERATURES:
            runs[f"few_t{temperature}_seed{seed}"] = Run(
                images=12_000, teacher=SPINE, temperature=temperature, **few
            )
        for teacher in OTHER_TEACHERS:
            runs[f"few_by_{teacher}_seed{seed}"] = Run(images=12_000, teacher=teacher, **few)
        runs[f"few_hinted_seed{seed}"] = Run(
            images=12_000, teacher=SPINE, hint_epochs=5, **{**few, "epochs": 10}
        )
        for count in FEW:  # as many steps as with 12,000 images
            steps = {**few, "epochs": 15 * 94 // (count // min(128, count // 4))}
            runs[f"few_{count}_alone_seed{seed}"] = Run(images=count, **steps)
            runs[f"few_{count}_taught_seed{seed}"] = Run(images=count, teacher=SPINE, **steps)
    return runs


def train_run(name: str, run: Run, lessons: tuple[Tensor, Tensor], work: Path) -> nn.Module:
    """Return the trained student of a run."""
    images, labels = (part[: run.images] for part in lessons)
    views = FULL_VIEWS if run.group == "students_fashion" else FEW_VIEWS
    classes = datasets.FASHION_CLASSES
    settings = {"on_epoch": lambda *told: print(name, *told[:2], flush=True)}
    state_file = work / f"{name}.train_state"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        student: nn.Module = models.DSCNN(run.width)
    if run.teacher is None:
        return distill.train_alone(
            student, images, labels, run.recipe, views, state_file=state_file, **settings
        )
    teacher = models.load_pretrained(run.teacher)
    answers = distill.cache_answers(
        teacher,
        images,
        classes,
        views,
        file=work / f"answers_{run.group}_{run.teacher}_{run.images}.safetensors",
        precision="bf16" if run.group == "students_fashion" else "fp32",
    )
    if run.hint_epochs:
        first = Recipe(**{**asdict(run.recipe), "epochs": run.hint_epochs})
        layer, theirs = HINT
        student = distill.train_hints(
            student, layer, teacher, theirs, images, labels, first, views, **settings
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
    parser.add_argument("--bundle", action="store_true", help="write the files of the course")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.bundle:
        bundle(runs, arguments.work)
        return
    chosen = {
        name: run for name, run in runs.items()
        if not arguments.names or any(part in name for part in arguments.names)
    }  # fmt: skip
    full, test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))
    shipped = datasets.load_fashion().train
    few = torch.from_numpy(shipped.images), torch.from_numpy(shipped.labels)
    for name, run in chosen.items():
        file = arguments.work / f"{name}.safetensors"
        if file.exists():
            continue
        lessons = full if run.group == "students_fashion" else few
        model = train_run(name, run, lessons, arguments.work)
        accuracy = evaluate(model, *test)
        save_file(model.state_dict(), file, {"test_accuracy": f"{accuracy:.4f}"})
        (arguments.work / f"{name}.train_state").unlink(missing_ok=True)
        print(f"{name}: {accuracy:.2%} of the test images", flush=True)


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
            model = models.DSCNN(run.width)
            model.load_state_dict({key: one.half().float() if one.ndim > 1 else one
                                   for key, one in load_file(file).items()})  # fmt: skip
            about = {key: value for key, value in asdict(run).items() if key != "group"}
            about["test_accuracy"] = round(evaluate(model, images, labels), 4)
            students[name] = Student(model.eval(), about)
            print(name, about["test_accuracy"])
        views = FULL_VIEWS if group == "students_fashion" else FEW_VIEWS
        noted = {
            "views": json.dumps(asdict(views)),
            "recipe": json.dumps(asdict(next(iter(runs.values())).recipe)),
            "torch": torch.__version__,
        }
        save_students(students, CHECKPOINTS / f"{group}.safetensors", noted)


if __name__ == "__main__":
    main()
