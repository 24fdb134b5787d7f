"""Training: the augmentation, that it learns, and that it goes on where it broke off."""

import copy
import dataclasses
import math
import signal

import pytest
import torch
from torch.nn import functional as F

from course_utils import training
from course_utils.models import MLP, ResNet8
from course_utils.training import (
    DivergedError,
    Recipe,
    augment,
    describe_architecture,
    evaluate,
    train,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Augmentation


def moving(flip: bool = True, shift: int = 0, erase: int = 0) -> Recipe:
    return Recipe(epochs=1, flip=flip, shift_pixels=shift, erase_pixels=erase)


def test_augmented_images_have_the_same_shape_and_range():
    images = torch.rand(20, 1, 12, 10, generator=seeded())
    changed = augment(images, moving(shift=2, erase=4), seeded())
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images)


def test_augmentation_does_not_change_its_argument():
    images = torch.rand(5, 1, 8, 8, generator=seeded())
    before = images.clone()
    augment(images, moving(shift=2, erase=4), seeded())
    assert torch.equal(images, before)


def test_augmentation_depends_on_the_generator_alone():
    images = torch.rand(5, 1, 8, 8, generator=seeded())
    state = torch.random.get_rng_state()
    first, again, other = (
        augment(images, moving(shift=2, erase=4), seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_recipe_can_leave_the_images_as_they_are():
    images = torch.rand(40, 1, 6, 6, generator=seeded())
    assert torch.equal(augment(images, moving(flip=False), seeded()), images)


def test_flipped_images_are_mirrored_from_left_to_right_about_half_of_the_time():
    images = torch.rand(100, 1, 6, 6, generator=seeded())
    changed = augment(images, moving(flip=True), seeded())
    kept = [torch.equal(new, old) for new, old in zip(changed, images, strict=True)]
    flipped = [torch.equal(new, old.flip(-1)) for new, old in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(kept, flipped, strict=True))
    assert 30 < sum(flipped) < 70


def test_images_are_shifted_along_both_axes_and_filled_with_black():
    images = torch.rand(100, 1, 5, 5, generator=seeded())
    changed = augment(images, moving(flip=False, shift=1), seeded())
    used = set()
    for new, old in zip(changed, images, strict=True):
        padded = F.pad(old, (1, 1, 1, 1))
        (way,) = [
            (down, right)
            for down in range(3)
            for right in range(3)
            if torch.equal(padded[:, down : down + 5, right : right + 5], new)
        ]
        used.add(way)
    assert used == {(down, right) for down in range(3) for right in range(3)}


def test_the_erased_square_is_at_most_as_large_as_asked():
    changed = augment(torch.ones(200, 1, 9, 9), moving(erase=3), seeded())
    sizes = set()
    for image in changed[:, 0]:
        rows, columns = torch.nonzero(image == 0, as_tuple=True)
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        assert height * width == len(rows)  # nothing is left within it
        sizes.add((height, width))
    assert sizes == {(height, width) for height in (1, 2, 3) for width in (1, 2, 3)}


# Training

RECIPE = Recipe(epochs=4, batch=16, peak_learning_rate=0.05, shift_pixels=1, erase_pixels=2)


@pytest.fixture(scope="module")
def bright_halves():
    """Return images whose upper (0) or lower (1) half is bright: no augmentation hides which."""
    labels = torch.arange(96) % 2
    images = 0.2 * torch.rand(96, 1, 8, 8, generator=seeded())
    images[labels == 0, :, :4] += 0.8
    images[labels == 1, :, 4:] += 0.8
    return images, labels


@pytest.fixture
def untrained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet8(width=8, classes=2)


def assert_same_weights(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_training_learns_what_is_easy(bright_halves):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MLP([64, 16, 2])
    losses = []
    trained = train(
        model, *bright_halves, RECIPE, on_epoch=lambda epoch, loss, model: losses.append(loss)
    )
    assert len(losses) == RECIPE.epochs
    assert losses[-1] < losses[0]
    assert losses[-1] < math.log(2)  # what guessing costs
    assert evaluate(trained, *bright_halves) > 0.9


def test_training_returns_a_copy(bright_halves, untrained):
    before = copy.deepcopy(untrained)
    trained = train(untrained, *bright_halves, RECIPE)
    assert_same_weights(untrained, before)
    assert untrained.training
    assert not trained.training
    assert not torch.equal(trained.stem.weight, untrained.stem.weight)


def test_training_twice_gives_the_same_weights(bright_halves, untrained):
    first = train(untrained, *bright_halves, RECIPE)
    assert_same_weights(first, train(untrained, *bright_halves, RECIPE))


def test_epochs_count_from_1_and_show_the_model_so_far(bright_halves, untrained):
    seen = []
    train(
        untrained,
        *bright_halves,
        RECIPE,
        on_epoch=lambda epoch, loss, model: seen.append((epoch, evaluate(model, *bright_halves))),
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert all(0 <= share <= 1 for _, share in seen)


class PowerCutError(Exception):
    """Stands for whatever ends a training early."""


@pytest.mark.parametrize("last_epoch", [1, 2, 3])
def test_a_training_broken_off_after_an_epoch_ends_with_the_same_weights(
    bright_halves, untrained, tmp_path, last_epoch
):
    unbroken = train(untrained, *bright_halves, RECIPE)
    state_file = tmp_path / "resnet.train_state"

    def break_off(epoch, loss, model):
        if epoch == last_epoch:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(untrained, *bright_halves, RECIPE, state_file=state_file, on_epoch=break_off)
    epochs = []
    resumed = train(
        untrained,
        *bright_halves,
        RECIPE,
        state_file=state_file,
        on_epoch=lambda epoch, loss, model: epochs.append(epoch),
    )
    assert epochs == list(range(last_epoch + 1, RECIPE.epochs + 1))
    assert_same_weights(resumed, unbroken)


def test_a_training_broken_off_within_an_epoch_repeats_that_epoch(
    bright_halves, untrained, tmp_path, monkeypatch
):
    unbroken = train(untrained, *bright_halves, RECIPE)
    state_file = tmp_path / "resnet.train_state"
    steps_an_epoch = len(bright_halves[0]) // RECIPE.batch
    steps = []

    def augment_until_the_cut(*arguments):
        steps.append(1)
        if len(steps) == 2 * steps_an_epoch + 3:
            raise PowerCutError
        return augment(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", augment_until_the_cut)
        with pytest.raises(PowerCutError):
            train(untrained, *bright_halves, RECIPE, state_file=state_file)
    state_file.with_suffix(".part").write_bytes(b"half a file: the power went while it was written")
    resumed = train(untrained, *bright_halves, RECIPE, state_file=state_file)
    assert_same_weights(resumed, unbroken)


def test_a_finished_training_is_not_repeated(bright_halves, untrained, tmp_path):
    state_file = tmp_path / "resnet.train_state"
    finished = train(untrained, *bright_halves, RECIPE, state_file=state_file)
    epochs = []
    again = train(
        untrained,
        *bright_halves,
        RECIPE,
        state_file=state_file,
        on_epoch=lambda epoch, loss, model: epochs.append(epoch),
    )
    assert epochs == []
    assert_same_weights(again, finished)


def test_each_step_tells_its_loss(bright_halves, untrained):
    steps, epochs = [], []
    train(
        untrained, *bright_halves, RECIPE,
        on_epoch=lambda epoch, loss, model: epochs.append(loss), on_step=steps.append,
    )  # fmt: skip
    assert len(steps) == RECIPE.epochs * 6
    for epoch, loss in enumerate(epochs):
        assert loss == pytest.approx(sum(steps[6 * epoch : 6 * epoch + 6]) / 6)


@pytest.mark.parametrize("cut", [1, 6 + 4, 3 * 6 + 5])
def test_an_interrupt_in_the_middle_of_an_epoch_costs_that_epoch_alone(
    bright_halves, untrained, tmp_path, cut
):
    """The learner stops it; what follows ends with the same weights, to the last bit."""
    unbroken = train(untrained, *bright_halves, RECIPE)
    state_file = tmp_path / "resnet.train_state"
    steps = []

    def press_stop(loss):
        steps.append(loss)
        if len(steps) == cut:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(untrained, *bright_halves, RECIPE, state_file=state_file, on_step=press_stop)
    finished = (cut - 1) // 6
    assert state_file.exists() == (finished > 0)
    epochs = []
    resumed = train(
        untrained, *bright_halves, RECIPE, state_file=state_file,
        on_epoch=lambda epoch, loss, model: epochs.append(epoch),
    )  # fmt: skip
    assert epochs == list(range(finished + 1, RECIPE.epochs + 1))
    assert_same_weights(resumed, unbroken)


def test_the_folder_of_the_state_is_made(bright_halves, untrained, tmp_path):
    state_file = tmp_path / "not" / "there" / "resnet.train_state"
    train(untrained, *bright_halves, dataclasses.replace(RECIPE, epochs=1), state_file=state_file)
    assert [file.name for file in state_file.parent.iterdir()] == ["resnet.train_state"]


# Losses that are no numbers


def poison(monkeypatch, step):
    """Let the images of one step hold NaN, as if the training had diverged there."""
    steps = []

    def augment_until_then(*arguments):
        steps.append(1)
        return augment(*arguments) * (math.nan if len(steps) == step else 1)

    monkeypatch.setattr(training, "augment", augment_until_then)


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (6, 1), (7, 2), (2 * 6 + 3, 3), (4 * 6, 4)])
def test_a_loss_that_is_no_number_keeps_the_last_good_model(
    bright_halves, untrained, monkeypatch, step, epoch
):
    good = [copy.deepcopy(untrained)]
    with monkeypatch.context() as patch:
        poison(patch, step)
        with pytest.raises(DivergedError, match=f"no longer a number in epoch {epoch}") as error:
            train(
                untrained, *bright_halves, RECIPE,
                on_epoch=lambda epoch, loss, model: good.append(copy.deepcopy(model)),
            )  # fmt: skip
    assert len(good) == epoch
    assert_same_weights(error.value.model, good[-1])
    assert not error.value.model.training
    message = str(error.value)
    assert "smaller learning rate than 0.05" in message
    assert "in fp16, where the loss scale adapts itself, try bf16" in message
    assert "the state of the training" not in message


@pytest.mark.parametrize("step", [6 + 1, 2 * 6 + 3])
def test_the_state_of_a_diverged_training_can_still_be_used(
    bright_halves, untrained, monkeypatch, tmp_path, step
):
    unbroken = train(untrained, *bright_halves, RECIPE)
    state_file = tmp_path / "resnet.train_state"
    with monkeypatch.context() as patch:
        poison(patch, step)
        with pytest.raises(DivergedError, match=f"in {state_file}"):
            train(untrained, *bright_halves, RECIPE, state_file=state_file)
    epochs = []
    resumed = train(
        untrained, *bright_halves, RECIPE, state_file=state_file,
        on_epoch=lambda epoch, loss, model: epochs.append(epoch),
    )  # fmt: skip
    assert epochs[0] == (step - 1) // 6 + 1
    assert_same_weights(resumed, unbroken)


@pytest.mark.parametrize("spoilt", ["stem.weight", "norm.running_var"])
def test_a_last_step_that_ruins_a_weight_is_not_kept(bright_halves, untrained, tmp_path, spoilt):
    """The loss of that step was still a number: the next epoch would begin with NaN."""
    state_file = tmp_path / "resnet.train_state"
    seen, steps = [], []

    def spoil(loss):
        steps.append(loss)
        if len(steps) == 2 * 6:
            seen[0].state_dict()[spoilt].view(-1)[0] = math.inf

    good = []

    def remember(epoch, loss, model):
        seen.append(model)
        good.append(copy.deepcopy(model))

    with pytest.raises(DivergedError, match="no longer a number in epoch 2") as error:
        train(
            untrained, *bright_halves, RECIPE, state_file=state_file, on_step=spoil,
            on_epoch=remember,
        )  # fmt: skip
    assert len(good) == 1
    assert_same_weights(error.value.model, good[0])
    kept = torch.load(state_file, weights_only=True)
    assert kept["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())


def test_a_learning_rate_that_is_too_large_is_named(bright_halves, untrained):
    recipe = dataclasses.replace(RECIPE, peak_learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"smaller learning rate than 1e\+30") as error:
        train(untrained, *bright_halves, recipe)
    assert_same_weights(error.value.model, untrained)
    trained = train(error.value.model, *bright_halves, RECIPE)  # as it advises
    assert evaluate(trained, *bright_halves) > 0.9


# States of other trainings


@pytest.fixture
def first_state(bright_halves, untrained, tmp_path):
    state_file = tmp_path / "resnet.train_state"
    train(untrained, *bright_halves, dataclasses.replace(RECIPE, epochs=1), state_file=state_file)
    return state_file


def strided():
    """Return a network with the shapes of ``ResNet8(8, 2)`` that computes something else."""
    resnet = ResNet8(width=8, classes=2)
    resnet.block2.conv1.stride = (1, 1)
    resnet.block2.shortcut[0].stride = (1, 1)
    return resnet


@pytest.mark.parametrize(
    "make", [lambda: ResNet8(width=3, classes=2), lambda: MLP([64, 16, 2]), strided]
)
def test_a_state_of_another_architecture_is_refused_with_both_named(
    bright_halves, untrained, first_state, make
):
    written, other = first_state.read_bytes(), make()
    with pytest.raises(ValueError, match="holds the architecture") as error:
        train(other, *bright_halves, dataclasses.replace(RECIPE, epochs=1), state_file=first_state)
    names = describe_architecture(untrained), describe_architecture(other)
    assert names[0] != names[1]
    assert f"architecture {names[0]}, but this training has the architecture {names[1]}" in str(
        error.value
    )
    assert f"Remove {first_state}" in str(error.value)
    assert first_state.read_bytes() == written


@pytest.mark.parametrize(
    "change",
    [{"epochs": 2}, {"peak_learning_rate": 0.01}, {"seed": 1}, {"batch": 8}, {"flip": False}],
)
def test_a_state_of_another_recipe_is_refused_with_both_named(
    bright_halves, untrained, first_state, change
):
    other = dataclasses.replace(RECIPE, **{"epochs": 1, **change})
    with pytest.raises(ValueError, match=r"holds the recipe .*but this training has the") as e:
        train(untrained, *bright_halves, other, state_file=first_state)
    (name, value), *_ = change.items()
    assert f"'{name}': {value!r}" in str(e.value)
    kept = {"epochs": 1, **{key: getattr(RECIPE, key) for key in change if key != "epochs"}}
    assert f"'{name}': {kept[name]!r}" in str(e.value)


def test_lessons_that_cannot_be_learned_are_refused(bright_halves, untrained):
    images, labels = bright_halves
    once = dataclasses.replace(RECIPE, epochs=1)
    refused = [
        ((images, labels[:-1], once), r"n labels are needed, not \(96, 1, 8, 8\) and \(95,\)"),
        ((images[:, 0], labels, once), r"Images of shape \(n, 1, height, width\)"),
        ((images, labels, dataclasses.replace(once, batch=0)), "do not fill a batch of 0"),
        ((images, labels + 5, once), "There is a label 6, but the model returns 2 logits"),
    ]
    for lessons, told in refused:
        with pytest.raises(ValueError, match=told):
            train(untrained, *lessons)


def test_gradients_that_no_scale_makes_finite_stop_the_training(bright_halves):
    class NoSlope(MLP):
        def forward(self, x):
            logits = super().forward(x)
            return logits + (logits - logits).abs().sqrt()  # 0, with a slope that is no number

    recipe = Recipe(epochs=6, batch=16, flip=False, shift_pixels=0)
    with pytest.raises(DivergedError, match="where the loss scale adapts itself"):
        train(NoSlope([64, 4, 2]), *bright_halves, recipe, precision="fp16")


@pytest.mark.parametrize("change", ["images", "labels", "count"])
def test_a_state_of_other_lessons_is_refused(bright_halves, untrained, first_state, change):
    images, labels = bright_halves
    count = len(images)
    if change == "images":
        images = images.flip(3)
    elif change == "labels":
        labels = 1 - labels
    else:
        count = 32
    told = rf"holds the lessons 96 images \(.*but this training has the lessons {count} images"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    with pytest.raises(ValueError, match=told):
        train(untrained, images[:count], labels[:count], recipe, state_file=first_state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"", lambda content: content[: len(content) // 2],
        lambda content: b"certainly no state", lambda content: content[200:],
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_with_advice(bright_halves, untrained, first_state, damage):
    content = damage(first_state.read_bytes())
    first_state.write_bytes(content)
    with pytest.raises(ValueError, match=f"{first_state} is no state of a training.*Remove") as e:
        train(untrained, *bright_halves, RECIPE, state_file=first_state)
    assert e.value.__suppress_context__
    assert first_state.read_bytes() == content  # left for who wants to look at it


@pytest.mark.parametrize("other", [[1, 2, 3], 7, {"stem.weight": torch.ones(2)}])
def test_another_file_of_torch_is_refused(bright_halves, untrained, tmp_path, other):
    state_file = tmp_path / "other.pt"
    torch.save(other, state_file)
    with pytest.raises(ValueError, match=f"{state_file} (is no state|holds the architecture None)"):
        train(untrained, *bright_halves, RECIPE, state_file=state_file)


def test_an_architecture_is_described_by_class_size_and_digest():
    described = describe_architecture(MLP([64, 16, 2]))
    assert described.startswith(f"MLP of {64 * 16 + 16 + 16 * 2 + 2:,} parameters (")
    assert described == describe_architecture(MLP([64, 16, 2]))
    assert described != describe_architecture(MLP([64, 15, 2]))


def test_too_few_images_are_refused(bright_halves, untrained):
    images, labels = bright_halves
    with pytest.raises(ValueError, match="15 images do not fill a batch of 16"):
        train(untrained, images[:15], labels[:15], RECIPE)


def test_evaluate_counts_what_is_right():
    images = torch.eye(4).reshape(4, 1, 2, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4, bias=False))
    model[1].weight.data = torch.eye(4)  # answers with the bright pixel
    assert evaluate(model, images, torch.tensor([0, 1, 2, 3])) == 1
    assert evaluate(model, images, torch.tensor([0, 1, 0, 0])) == 0.5
    assert evaluate(model, images, torch.tensor([0, 1, 2, 0]), batch=3) == 0.75


# Precision


def test_training_in_bf16_learns_and_keeps_its_weights_in_fp32(bright_halves):
    untrained = MLP([64, 16, 2])
    recipe = Recipe(epochs=3, batch=16, peak_learning_rate=0.1, flip=False, shift_pixels=0)
    trained = train(untrained, *bright_halves, recipe, precision="bf16")
    images, labels = bright_halves
    after, before = (F.cross_entropy(model(images), labels) for model in (trained, untrained))
    assert after < before / 2
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
    exact = train(untrained, *bright_halves, recipe)
    weights = (trained.layers[0].weight, exact.layers[0].weight)
    assert not torch.equal(*weights)
    assert torch.allclose(*weights, atol=0.05)


def test_training_in_fp16_scales_its_loss_and_goes_on_where_it_broke_off(bright_halves, tmp_path):
    recipe = Recipe(epochs=2, batch=16, peak_learning_rate=0.1, flip=False, shift_pixels=0)
    untrained = MLP([64, 16, 2])
    whole = train(untrained, *bright_halves, recipe, precision="fp16")

    class StopError(Exception):
        pass

    def stop(epoch: int, loss: float, model: torch.nn.Module) -> None:
        raise StopError

    settings = {"precision": "fp16", "state_file": tmp_path / "state"}
    with pytest.raises(StopError):
        train(untrained, *bright_halves, recipe, on_epoch=stop, **settings)
    resumed = train(untrained, *bright_halves, recipe, **settings)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_state_of_another_precision_and_an_unknown_precision_are_refused(bright_halves, tmp_path):
    recipe = Recipe(epochs=1, batch=16, flip=False, shift_pixels=0)
    state_file = tmp_path / "state"
    train(MLP([64, 4, 2]), *bright_halves, recipe, state_file=state_file)
    with pytest.raises(ValueError, match=r"precision fp32.*precision bf16"):
        train(MLP([64, 4, 2]), *bright_halves, recipe, precision="bf16", state_file=state_file)
    with pytest.raises(ValueError, match="no precision 'fp12'"):
        train(MLP([64, 4, 2]), *bright_halves, recipe, precision="fp12")


# Images and a loss of one's own


def test_images_and_loss_of_ones_own_can_do_what_training_does(bright_halves):
    """Drawn as they are, with the cross-entropy: the same weights as without both."""
    images, labels = bright_halves
    untrained = MLP([64, 16, 2])
    recipe = dataclasses.replace(RECIPE, flip=False, shift_pixels=0, erase_pixels=0)

    def loss_of(outputs, epoch, rows, batch):
        return F.cross_entropy(outputs, labels[rows], label_smoothing=recipe.label_smoothing)

    found = train(
        untrained, images, labels, recipe, draw=lambda epoch, rows: images[rows], loss_of=loss_of
    )
    assert_same_weights(found, train(untrained, images, labels, recipe))


def test_the_model_sees_what_is_drawn_and_the_loss_what_the_model_saw(bright_halves):
    images, labels = bright_halves
    asked, seen, judged = [], [], []

    def draw(epoch, rows):
        asked.append((epoch, rows))
        return images[rows] / epoch

    def loss_of(outputs, epoch, rows, batch):
        judged.append((epoch, rows, batch, outputs))
        return outputs.square().mean()

    watched = MLP([64, 4, 2])
    watched.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]))
    train(watched, images, labels, RECIPE, draw=draw, loss_of=loss_of, precision="bf16")
    assert len(asked) == len(seen) == len(judged) == RECIPE.epochs * 6
    assert [epoch for epoch, _ in asked] == [epoch for epoch in (1, 2, 3, 4) for _ in range(6)]
    for (epoch, rows), shown, told in zip(asked, seen, judged, strict=True):
        assert torch.equal(shown, images[rows] / epoch)
        assert told[0] == epoch
        assert torch.equal(told[1], rows)
        assert torch.equal(told[2], shown)
        assert told[3].shape == (16, 2)
        assert told[3].dtype == torch.float32
    for start in range(0, len(asked), 6):
        of_an_epoch = torch.cat([rows for _, rows in asked[start : start + 6]])
        assert torch.equal(of_an_epoch.sort().values, torch.arange(96))


def test_where_images_are_drawn_none_are_augmented(bright_halves, untrained, monkeypatch):
    images, labels = bright_halves
    monkeypatch.setattr(training, "augment", None)  # cannot be called
    trained = train(untrained, images, labels, RECIPE, draw=lambda epoch, rows: images[rows])
    assert evaluate(trained, images, labels) > 0.9


def test_a_loss_of_ones_own_is_what_is_told_and_minimised(bright_halves, untrained):
    """Labels and logits need not fit each other: only their number counts then."""
    images, labels = bright_halves
    steps, epochs = [], []

    def loss_of(outputs, epoch, rows, batch):
        return (outputs - 3).square().mean()

    trained = train(
        untrained, images, labels + 7, RECIPE, loss_of=loss_of, on_step=steps.append,
        on_epoch=lambda epoch, loss, model: epochs.append(loss),
    )  # fmt: skip
    assert len(steps) == RECIPE.epochs * 6
    assert epochs[0] == pytest.approx(sum(steps[:6]) / 6)
    assert epochs[-1] < 0.5 * epochs[0]
    with torch.no_grad():
        assert abs(float(trained(images).mean()) - 3) < 1


@pytest.mark.parametrize("last_epoch", [1, 3])
def test_drawn_images_and_a_loss_of_ones_own_go_on_where_they_broke_off(
    bright_halves, untrained, tmp_path, last_epoch
):
    images, labels = bright_halves
    settings = {
        "draw": lambda epoch, rows: images[rows] * (1 + epoch / 10),
        "loss_of": lambda outputs, epoch, rows, batch: (
            F.cross_entropy(outputs, labels[rows]) + outputs.square().mean() / epoch
        ),
        "aim": "small logits",
    }
    unbroken = train(untrained, images, labels, RECIPE, **settings)
    settings["state_file"] = tmp_path / "resnet.train_state"

    def press_stop(epoch, loss, model):
        if epoch == last_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(untrained, images, labels, RECIPE, on_epoch=press_stop, **settings)
    with pytest.raises(ValueError, match="holds the aim small logits"):
        train(untrained, images, labels, RECIPE, **{**settings, "aim": "large logits"})
    assert_same_weights(train(untrained, images, labels, RECIPE, **settings), unbroken)


def test_a_loss_of_ones_own_that_is_no_number_keeps_the_last_good_model(bright_halves, untrained):
    good, steps = [copy.deepcopy(untrained)], []

    def loss_of(outputs, epoch, rows, batch):
        steps.append(1)
        return outputs.square().mean() * (math.nan if len(steps) == 6 + 2 else 1)

    with pytest.raises(DivergedError, match="no longer a number in epoch 2") as error:
        train(
            untrained, *bright_halves, RECIPE, loss_of=loss_of,
            on_epoch=lambda epoch, loss, model: good.append(copy.deepcopy(model)),
        )  # fmt: skip
    assert len(good) == 2
    assert_same_weights(error.value.model, good[-1])
