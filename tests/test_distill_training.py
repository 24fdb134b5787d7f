"""Training of students: with answers, alone, with hints; and that it goes on where it broke off."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.distill import (
    Answers,
    Views,
    cache_answers,
    distillation_loss,
    read_features,
    soften,
    train_alone,
    train_hints,
    train_student,
)
from course_utils.models import MLP
from course_utils.training import DivergedError, Recipe, evaluate, train

CLASSES = ("cat", "dog", "eel", "fox")
VIEWS = Views(count=2, flip=True, shift_pixels=1)
RECIPE = Recipe(epochs=3, batch=16, peak_learning_rate=0.1)
STEPS = 6  # of an epoch


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_model(make, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def build_student(seed: int = 1, neurons: int = 6) -> nn.Module:
    return draw_model(lambda: MLP([64, neurons, 4]), seed)


def draw_lessons(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of 1x8x8 in four classes, and labels: two rows are brighter, by little."""
    labels = torch.arange(count) % 4
    images = 0.6 * torch.rand(count, 1, 8, 8, generator=seeded(seed))
    for label in range(4):
        images[labels == label, :, 2 * label : 2 * label + 2] += 0.2
    return images, labels


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_all():
    """Let what all tests here share be made by one thread too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lessons():
    return draw_lessons(96, 0)


@pytest.fixture(scope="module")
def teacher(lessons):
    """Return a network that knows the training images, and is sure of few."""
    recipe = dataclasses.replace(RECIPE, epochs=12, flip=False, shift_pixels=0, erase_pixels=0)
    return train(draw_model(lambda: MLP([64, 32, 4])), *lessons, recipe)


@pytest.fixture(scope="module")
def answers(teacher, lessons, tmp_path_factory) -> Answers:
    file = tmp_path_factory.mktemp("answers") / "answers.safetensors"
    return cache_answers(teacher, lessons[0], CLASSES, VIEWS, file=file)


@pytest.fixture
def student():
    return build_student()


@pytest.fixture
def teach(student, lessons, answers):
    """Return a function that trains the student with the teacher's answers."""

    def run(recipe=RECIPE, answers=answers, classes=CLASSES, **settings):
        return train_student(student, *lessons, recipe, answers, classes, **settings)

    return run


def assert_same_weights(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


class PowerCutError(Exception):
    """Stands for whatever ends a training early."""


def cut_after_epoch(last_epoch):
    def break_off(epoch, loss, model):
        if epoch == last_epoch:
            raise PowerCutError

    return break_off


def press_stop_at(step):
    steps = []

    def press(loss):
        steps.append(loss)
        if len(steps) == step:
            raise KeyboardInterrupt

    return press


# With answers


@pytest.mark.parametrize(("temperature", "hard_share"), [(4.0, 0.1), (1.0, 0.0), (2.0, 1.0)])
def test_a_student_is_trained_as_by_a_loop_of_ones_own(
    student, lessons, answers, teach, temperature, hard_share
):
    trained = teach(temperature=temperature, hard_share=hard_share)
    images, labels = lessons
    mine = copy.deepcopy(student).train()
    optimizer = torch.optim.SGD(
        mine.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=RECIPE.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3 * STEPS)
    for epoch, view in ((1, 0), (2, 1), (3, 0)):
        seen = VIEWS.draw(images, view)
        for rows in torch.randperm(96, generator=seeded(epoch)).split(16):
            loss = distillation_loss(
                mine(seen[rows]), answers.logits[view, rows].float(), labels[rows],
                temperature, hard_share,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for name, weight in mine.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], weight)


def test_it_comes_closer_to_its_teacher_than_without(lessons, answers, teacher):
    """Over three students, on images that none of them has seen."""
    recipe = dataclasses.replace(RECIPE, epochs=20)
    fresh, _ = draw_lessons(300, 5)
    with torch.no_grad():
        wanted = soften(teacher(fresh), 4)
    far = {"taught": 0.0, "alone": 0.0}
    for seed in (1, 2, 3):
        start, losses = build_student(seed), []
        found = {
            "taught": train_student(start, *lessons, recipe, answers, CLASSES,
                                    on_step=losses.append),
            "alone": train_alone(start, *lessons, recipe, VIEWS),
        }  # fmt: skip
        assert sum(losses[-STEPS:]) < 0.7 * sum(losses[:STEPS])
        for how, model in found.items():
            with torch.no_grad():
                answered = soften(model(fresh), 4)
            far[how] += float(F.kl_div(answered.log(), wanted, reduction="batchmean"))
    assert far["taught"] < 0.5 * far["alone"]


def test_it_learns_what_the_teacher_says_without_a_true_label(student, lessons, answers, teacher):
    images, labels = lessons
    wrong = (labels + 1) % 4
    recipe = dataclasses.replace(RECIPE, epochs=12)
    trained = train_student(student, images, wrong, recipe, answers, CLASSES, hard_share=0)
    with torch.no_grad():
        says = teacher(images).argmax(dim=1)
    assert evaluate(trained, images, says) > 0.8
    assert evaluate(trained, images, wrong) < 0.2


def test_a_student_of_another_architecture_and_order_of_classes_is_taught(lessons, answers):
    order = (2, 0, 3, 1)
    images, labels = lessons
    places = torch.tensor([order.index(label) for label in range(4)])
    convnet = draw_model(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(128, 4),
        )
    )  # fmt: skip
    trained = train_student(
        convnet, images, places[labels], dataclasses.replace(RECIPE, epochs=8), answers,
        [CLASSES[label] for label in order], hard_share=0,
    )  # fmt: skip
    assert evaluate(trained, images, places[labels]) > 0.7


def test_training_returns_a_copy_in_evaluation_mode(student, lessons, teach):
    before = copy.deepcopy(student)
    for trained in (teach(), train_alone(student, *lessons, RECIPE, VIEWS)):
        assert_same_weights(student, before)
        assert student.training
        assert not trained.training
        assert not torch.equal(trained.layers[0].weight, student.layers[0].weight)


def test_the_augmentation_and_label_smoothing_of_the_recipe_are_not_used(teach):
    other = dataclasses.replace(
        RECIPE, flip=False, shift_pixels=3, erase_pixels=5, label_smoothing=0.5
    )
    assert_same_weights(teach(), teach(recipe=other))


def test_alone_it_learns_from_smoothed_labels(student, lessons):
    smooth = dataclasses.replace(RECIPE, label_smoothing=0.5)
    one, other = (train_alone(student, *lessons, recipe, VIEWS) for recipe in (RECIPE, smooth))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


def test_taught_or_alone_it_sees_the_same_images_in_the_same_order(lessons, answers):
    seen = {"taught": [], "alone": []}
    images, labels = lessons
    for how, batches in seen.items():
        watched = build_student()
        watched.register_forward_pre_hook(
            lambda model, inputs, batches=batches: batches.append(inputs[0].clone())
        )
        if how == "taught":
            train_student(watched, images, labels, RECIPE, answers, CLASSES)
        else:
            train_alone(watched, images, labels, RECIPE, answers.views)
    assert len(seen["alone"]) == RECIPE.epochs * STEPS
    for one, other in zip(seen["taught"], seen["alone"], strict=True):
        assert torch.equal(one, other)
    shown = torch.cat(seen["alone"][:STEPS])  # of the first epoch: each image of view 0, once
    first_view = VIEWS.draw(images, 0)
    assert torch.equal(
        shown.flatten(1).unique(dim=0, sorted=True), first_view.flatten(1).unique(dim=0)
    )


# Where it goes on


@pytest.fixture
def stages(student, lessons, answers):
    """Return the three ways of training, by name, as functions of what else ``train`` takes."""
    images, labels = lessons
    return {
        "taught": lambda **settings: train_student(
            student, images, labels, RECIPE, answers, CLASSES, **settings
        ),
        "alone": lambda **settings: train_alone(student, images, labels, RECIPE, VIEWS, **settings),
        "hinted": lambda **settings: train_hints(
            draw_model(Convnet), "low", draw_model(lambda: Convnet(6), 1), "low", images, labels,
            RECIPE, VIEWS, **settings,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("how", ["taught", "alone", "hinted"])
@pytest.mark.parametrize(
    ("cut", "finished"),
    [
        ({"on_epoch": cut_after_epoch(1)}, 1),
        ({"on_epoch": cut_after_epoch(2)}, 2),
        ({"on_step": STEPS + 3}, 1),
        ({"on_step": 2}, 0),
    ],
)
def test_a_training_that_was_broken_off_ends_with_the_same_weights(
    stages, tmp_path, how, cut, finished
):
    if isinstance(cut.get("on_step"), int):
        cut = {"on_step": press_stop_at(cut["on_step"])}
    unbroken = stages[how]()
    state_file = tmp_path / "student.train_state"
    with pytest.raises((PowerCutError, KeyboardInterrupt)):
        stages[how](state_file=state_file, **cut)
    epochs = []
    resumed = stages[how](
        state_file=state_file, on_epoch=lambda epoch, loss, model: epochs.append(epoch)
    )
    assert epochs == list(range(finished + 1, RECIPE.epochs + 1))
    assert_same_weights(resumed, unbroken)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 5}, "temperature 5"),
        ({"temperature": 4.01}, "temperature 4.01"),
        ({"hard_share": 0.5}, "labels 50%"),
        ({"hard_share": 0.104}, "labels 10.4%"),
    ],
)
def test_a_state_of_another_aim_is_refused(teach, tmp_path, change, told):
    state_file = tmp_path / "student.train_state"
    teach(state_file=state_file)
    written = state_file.read_bytes()
    with pytest.raises(ValueError, match=r"holds the aim .* temperature 4, labels 10%,") as error:
        teach(state_file=state_file, **change)
    assert told in str(error.value).split("but this training has the aim")[1]
    assert f"Remove {state_file}" in str(error.value)
    assert state_file.read_bytes() == written


def test_a_state_of_another_teacher_or_of_none_is_refused(
    student, lessons, answers, teach, tmp_path
):
    state_file = tmp_path / "student.train_state"
    teach(state_file=state_file)
    other = cache_answers(build_student(9), lessons[0], CLASSES, VIEWS, file=tmp_path / "other")
    with pytest.raises(ValueError, match="holds the aim answers of") as error:
        teach(answers=other, state_file=state_file)
    assert f"answers of {other.about['weights']}" in str(error.value)
    assert f"answers of {answers.about['weights']}" in str(error.value)
    with pytest.raises(ValueError, match="this training has the aim alone"):
        train_alone(student, *lessons, RECIPE, VIEWS, state_file=state_file)


def test_a_state_of_other_views_is_refused(student, lessons, tmp_path):
    state_file = tmp_path / "student.train_state"
    train_alone(student, *lessons, RECIPE, VIEWS, state_file=state_file)
    with pytest.raises(ValueError, match=r"holds the aim alone, Views\(count=2.*Views\(count=3"):
        train_alone(
            student, *lessons, RECIPE, dataclasses.replace(VIEWS, count=3), state_file=state_file
        )


# What is refused


@pytest.mark.parametrize("change", [lambda images: images.flip(0), lambda images: images[:64]])
def test_answers_about_other_images_are_refused(student, lessons, answers, change):
    images, labels = map(change, lessons)
    steps = []
    with pytest.raises(ValueError, match="The teacher was asked about other images"):
        train_student(student, images, labels, RECIPE, answers, CLASSES, on_step=steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 0}, "above 0, not 0"),
        ({"temperature": math.nan}, "above 0, not nan"),
        ({"hard_share": 1.5}, "from 0 to 1, not 1.5"),
        ({"classes": ("cat", "dog", "eel", "gnu")}, "fox; only the student knows gnu"),
        ({"recipe": dataclasses.replace(RECIPE, batch=97)}, "do not fill a batch of 97"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_the_first_step(teach, change, told):
    steps = []
    with pytest.raises(ValueError, match=told):
        teach(**change, on_step=steps.append)
    assert steps == []


def test_a_student_with_other_logits_is_refused(lessons, answers):
    wide = draw_model(lambda: MLP([64, 5]))
    with pytest.raises(ValueError, match=r"student's logits are of shape \(16, 5\), the teacher's"):
        train_student(wide, *lessons, RECIPE, answers, CLASSES)


def test_a_diverged_student_is_as_after_the_last_good_epoch(student, lessons, answers):
    good = []

    def remember(epoch, loss, model):
        good.append(copy.deepcopy(model))
        model.layers[0].weight.data.mul_(1e30)

    with pytest.raises(DivergedError, match="no longer a number in epoch 2") as error:
        train_student(student, *lessons, RECIPE, answers, CLASSES, on_epoch=remember)
    assert len(good) == 1
    assert error.value.model.state_dict().keys() == good[0].state_dict().keys()
    assert all(one.isfinite().all() for one in error.value.model.state_dict().values())
    assert not error.value.model.training


# Hints


class Convnet(nn.Module):
    """Two convolutions, the first of which may halve the image, and a classifier."""

    def __init__(self, channels: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(1, channels, 3, stride, padding=1), nn.Tanh())
        self.high = nn.Conv2d(channels, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, images):
        return self.head(self.high(self.low(images)).relu().mean(dim=(2, 3)))


class Odd(nn.Module):
    """Calls one layer twice, one not at all, and one that returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Conv2d(1, 1, 3)
        self.pair = Pair()
        self.head = nn.Linear(64, 4)

    def forward(self, images):
        return self.head(self.pair(self.twice(self.twice(images)))[0].flatten(1))


class Pair(nn.Module):
    def forward(self, images):
        return images, images


def test_features_are_what_the_layer_returns(lessons):
    images, model = lessons[0][:3], draw_model(Convnet)
    features = read_features(model, "low", images)
    assert torch.equal(features, model.low(images))
    assert torch.equal(read_features(model, "low.0", images), model.low[0](images))
    assert not any(layer._forward_hooks for layer in model.modules())  # none is left
    features.sum().backward()
    assert model.low[0].weight.grad is not None


@pytest.mark.parametrize(
    ("make", "layer", "told"),
    [
        (Convnet, "middle", "no layer 'middle'; it has low, high, head and their parts"),
        (Convnet, "", "no layer ''; it has low, high, head"),
        (Convnet, "head", "'head' gives no hint.*an output of shape .batch, channels, height"),
        (Odd, "twice", "'twice' gives no hint: it was called 2 times"),
        (Odd, "never", "'never' gives no hint: it was called 0 times"),
        (Odd, "pair", "'pair' gives no hint"),
    ],
)
def test_a_layer_that_gives_no_hint_is_named(lessons, make, layer, told):
    model = draw_model(make)
    with pytest.raises(ValueError, match=told):
        read_features(model, layer, lessons[0][:3])
    assert not any(one._forward_hooks for one in model.modules())
    for student, teacher in ((model, Convnet()), (Convnet(), model)):
        with pytest.raises(ValueError, match=told):
            train_hints(
                student, layer if student is model else "low", teacher,
                layer if teacher is model else "low", *lessons, RECIPE, VIEWS,
            )  # fmt: skip


def measure_distance(student: nn.Module, teacher: nn.Module, images: torch.Tensor) -> float:
    """Return what is left of the teacher's features where the student's explain them best."""
    with torch.no_grad():
        mine, theirs = (read_features(model, "low", images) for model in (student, teacher))
    mine = F.adaptive_avg_pool2d(mine, theirs.shape[2:])
    rows = [features.permute(0, 2, 3, 1).flatten(0, 2) for features in (mine, theirs)]
    rows[0] = torch.cat([rows[0], torch.ones(len(rows[0]), 1)], dim=1)
    fitted = rows[0] @ torch.linalg.lstsq(*rows).solution
    return float((fitted - rows[1]).square().mean())


@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 1)], ids=["alike", "larger", "smaller"])
def test_hints_bring_the_features_nearer_to_the_teachers(lessons, strides):
    student = draw_model(lambda: Convnet(2, strides[0]), 1)
    teacher = draw_model(lambda: Convnet(7, strides[1]), 2)
    before, losses = copy.deepcopy(student), []
    recipe = dataclasses.replace(RECIPE, epochs=20, peak_learning_rate=0.3)
    hinted = train_hints(
        student, "low", teacher, "low", *lessons, recipe, VIEWS,
        on_epoch=lambda epoch, loss, model: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]
    images = lessons[0]
    distances = [measure_distance(model, teacher, images) for model in (student, hinted)]
    assert distances[1] < 0.95 * distances[0]
    assert isinstance(hinted, Convnet)
    assert not hinted.training
    assert_same_weights(student, before)
    assert_same_weights(hinted.head, student.head)  # what is above learns nothing yet
    assert_same_weights(hinted.high, student.high)


def test_hints_leave_the_teacher_as_it_is_and_ask_it_in_evaluation_mode(lessons):
    teacher = nn.Sequential()
    teacher.add_module("low", nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)))
    assert teacher.training
    before = copy.deepcopy(teacher)
    hinted = train_hints(draw_model(Convnet), "low", teacher, "low", *lessons, RECIPE, VIEWS)
    assert_same_weights(teacher, before)
    assert teacher.training
    told = train_hints(draw_model(Convnet), "low", before.eval(), "low", *lessons, RECIPE, VIEWS)
    assert_same_weights(hinted, told)


def test_a_hinted_student_goes_on_with_answers(lessons, answers):
    hinted = train_hints(
        draw_model(Convnet), "low", draw_model(Convnet, 1), "low", *lessons, RECIPE, VIEWS
    )
    trained = train_student(hinted, *lessons, RECIPE, answers, CLASSES)
    assert not torch.equal(trained.head.weight, hinted.head.weight)


@pytest.mark.parametrize("change", ["teacher", "teacher_layer", "layer", "views"])
def test_a_state_of_other_hints_is_refused(lessons, tmp_path, change):
    settings = {
        "student": draw_model(Convnet), "layer": "low", "teacher": draw_model(Convnet, 1),
        "teacher_layer": "low", "views": VIEWS,
    }  # fmt: skip
    others = {"teacher": draw_model(Convnet, 2), "teacher_layer": "low.0", "layer": "low.0",
              "views": Views()}  # fmt: skip
    images, labels = lessons
    rest = {"images": images, "labels": labels, "recipe": dataclasses.replace(RECIPE, epochs=1)}
    state_file = tmp_path / "hints.train_state"
    train_hints(**settings, **rest, state_file=state_file)
    with pytest.raises(ValueError, match="holds the aim hints of"):
        train_hints(**{**settings, change: others[change]}, **rest, state_file=state_file)
