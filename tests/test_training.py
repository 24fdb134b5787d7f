"""Training: the augmentation, that it learns, and that it goes on where it broke off."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from course_utils import training
from course_utils.models import MLP, ResNet8
from course_utils.training import Recipe, augment, evaluate, train


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
        return ResNet8(width=4, classes=2)


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


def test_evaluate_counts_what_is_right():
    images = torch.eye(4).reshape(4, 1, 2, 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4, bias=False))
    model[1].weight.data = torch.eye(4)  # answers with the bright pixel
    assert evaluate(model, images, torch.tensor([0, 1, 2, 3])) == 1
    assert evaluate(model, images, torch.tensor([0, 1, 0, 0])) == 0.5
    assert evaluate(model, images, torch.tensor([0, 1, 2, 0]), batch=3) == 0.75
