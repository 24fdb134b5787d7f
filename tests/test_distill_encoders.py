"""Students that read texts: what is inside an encoder, how it is followed, and fine-tuning."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.bag import build_bag
from course_utils.datasets import TextSplit
from course_utils.distill import (
    Transfer,
    Views,
    cache_answers,
    finetune_student,
    look_inside,
    match_blocks,
    soften,
)
from course_utils.encoder import Encoder, Sizes, build_encoder
from course_utils.finetuning import TextRecipe, draw_batches, finetune, share_of_rate
from course_utils.training import DivergedError, evaluate

SIZES = Sizes(
    vocabulary=30, positions=8, width=8, heads=(2, 2), head_width=4, neurons=(8, 8), classes=3
)
LARGE = replace(SIZES, heads=(2,) * 4, neurons=(16,) * 4)
CLASSES = ("act", "food", "plant")
RECIPE = TextRecipe(epochs=3, batch=16, peak_learning_rate=0.01)
STEPS = 4  # of an epoch


def lively(seed: int = 0, sizes: Sizes = SIZES) -> Encoder:
    """Return an encoder whose biases and norms differ from 0 and 1, as after a training."""
    model = build_encoder(sizes, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def draw_texts(count: int, seed: int = 0) -> TextSplit:
    """Return texts of 3 to 8 tokens, of which one, 1 to 3, tells the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    ids = random.integers(4, 30, (count, 8))
    lengths = random.integers(3, 9, count)
    ids[np.arange(count), random.integers(0, 3, count)] = 1 + labels
    ids[np.arange(8) >= lengths[:, None]] = 0
    return TextSplit(ids.astype(np.float32), labels, tuple(map(str, range(count))))


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_all():
    """Let what all tests here share be made by one thread too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def split():
    return draw_texts(64)


@pytest.fixture(scope="module")
def ids(split):
    return torch.tensor(split.images[:6])


@pytest.fixture(scope="module")
def teacher(split):
    """Return an encoder of four blocks that knows the texts."""
    recipe = replace(RECIPE, epochs=15)
    return finetune(lively(5, LARGE), split, recipe, precision="fp32")


@pytest.fixture(scope="module")
def answers(teacher, split, tmp_path_factory):
    file = tmp_path_factory.mktemp("answers") / "answers.safetensors"
    return cache_answers(teacher, torch.from_numpy(split.images), CLASSES, file=file)


def assert_same_weights(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


def stop_after(last_epoch):
    def press_stop(epoch, loss, model):
        if epoch == last_epoch:
            raise KeyboardInterrupt

    return press_stop


# Inside


def test_what_is_inside_leads_to_the_encoders_own_logits(ids):
    model = lively()
    texts = torch.cat([ids, torch.zeros(1, 8)])  # the last is of [PAD] alone
    inside = look_inside(model, texts)
    assert torch.equal(inside.logits, model(texts))
    assert [state.shape for state in inside.hidden] == [(7, 8, 8)] * 3
    assert [shares.shape for shares in inside.attention] == [(7, 2, 8, 8)] * 2
    assert torch.equal(inside.hidden[-1], model.encode(texts))


def test_texts_may_be_cut_to_the_longest_of_them(ids):
    model = lively()
    short = torch.cat([ids[:, :5], torch.zeros(6, 3)], dim=1)
    cut, whole = look_inside(model, short[:, :5]), look_inside(model, short)
    torch.testing.assert_close(cut.logits, whole.logits)
    torch.testing.assert_close(cut.hidden[1], whole.hidden[1][:, :5])
    torch.testing.assert_close(cut.attention[1], whole.attention[1][:, :, :5, :5])


def test_attention_is_that_of_torch_and_never_on_padding(ids):
    model = lively()
    inside = look_inside(model, ids)
    parts = model.blocks[1].attention
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        layers = [parts.query, parts.key, parts.value]
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    x = inside.hidden[1]
    _, wanted = theirs(x, x, x, key_padding_mask=ids.eq(0), average_attn_weights=False)
    torch.testing.assert_close(inside.attention[1], wanted)
    torch.testing.assert_close(inside.attention[1].sum(dim=3), torch.ones(6, 2, 8))
    on_padding = inside.attention[1] * ids.eq(0)[:, None, None]
    assert on_padding.abs().max() == 0


# Whom to follow


@pytest.mark.parametrize(
    ("student", "teacher", "follows"),
    [(1, 4, [3]), (2, 4, [1, 3]), (3, 4, [0, 1, 3]), (4, 4, [0, 1, 2, 3]), (4, 12, [2, 5, 8, 11])],
)
def test_blocks_are_matched_evenly_and_the_last_with_the_last(student, teacher, follows):
    assert match_blocks(student, teacher) == follows


@pytest.mark.parametrize(("student", "teacher"), [(0, 4), (5, 4), (-1, 2)])
def test_a_student_without_blocks_or_with_more_than_its_teacher_is_refused(student, teacher):
    told = f"student of {student} blocks cannot follow a teacher of {teacher}"
    with pytest.raises(ValueError, match=told):
        match_blocks(student, teacher)


def test_the_distance_is_what_one_computes_token_by_token(ids):
    student = lively(1, replace(SIZES, width=6))
    teacher = lively(2, LARGE)
    transfer = Transfer(student, teacher)
    assert transfer.follows == [1, 3]
    nn.init.normal_(transfer.project.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = look_inside(student, ids), look_inside(teacher, ids)
    apart = []
    for text, place in torch.nonzero(ids):
        far = 0.0
        for state, wanted in ((0, 0), (1, 2), (2, 4)):
            projected = transfer.project.weight.detach() @ mine.hidden[state][text, place]
            far += float((projected - theirs.hidden[wanted][text, place]).square().mean())
        for block, wanted in ((0, 1), (1, 3)):
            shares = mine.attention[block][text, :, place]  # (heads, length)
            others = theirs.attention[wanted][text, :, place]
            far += float((shares - others).square().sum(dim=1).mean())
        apart.append(far)
    assert transfer(mine, theirs, ids).item() == pytest.approx(np.mean(apart), rel=1e-4)


def test_a_student_that_is_its_teacher_has_no_distance(ids):
    model = lively()
    inside = look_inside(model, ids)
    assert Transfer(model, model)(inside, inside, ids).item() == 0


def test_padding_does_not_count(ids):
    student, teacher = lively(1), lively(2, LARGE)
    transfer = Transfer(student, teacher)
    mine, theirs = look_inside(student, ids), look_inside(teacher, ids)
    before = transfer(mine, theirs, ids).item()
    assert ids.eq(0).any()
    with torch.no_grad():
        for state in mine.hidden:
            state[ids.eq(0)] = 99.0
        for shares in theirs.attention:
            shares.transpose(1, 2)[ids.eq(0)] = 99.0
    assert transfer(mine, theirs, ids).item() == pytest.approx(before)
    with torch.no_grad():
        mine.hidden[0][0, 0] += 1
    assert transfer(mine, theirs, ids).item() > before


@pytest.mark.parametrize("width", [4, 8, 12])
def test_a_projection_leads_from_one_width_to_another_and_learns(ids, width):
    student, teacher = lively(1, replace(SIZES, width=width)), lively(2, LARGE)
    transfer = Transfer(student, teacher)
    assert torch.equal(transfer.project.weight, torch.eye(8, width))
    transfer(look_inside(student, ids), look_inside(teacher, ids), ids).backward()
    assert transfer.project.weight.grad.abs().max() > 0
    assert student.blocks[0].attention.query.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("heads", "told"),
    [((1, 2), r"have \[1, 2\] heads, those that they follow \[2, 2\]"),
     ((3, 3), r"have \[3, 3\] heads"), ((2,) * 5, "student of 5 blocks cannot follow")],
)  # fmt: skip
def test_blocks_that_cannot_be_compared_are_refused(heads, told):
    sizes = replace(SIZES, heads=heads, neurons=(8,) * len(heads))
    with pytest.raises(ValueError, match=told):
        Transfer(lively(1, sizes), lively(2, LARGE))


def test_heads_are_compared_with_those_of_the_block_that_is_followed():
    teacher = lively(2, replace(LARGE, heads=(1, 2, 1, 3)))
    assert Transfer(lively(1, replace(SIZES, heads=(2, 3))), teacher).follows == [1, 3]


# Students


@pytest.fixture
def student():
    return lively(1)


@pytest.fixture
def teach(student, split, answers):
    """Return a function that fine-tunes the student with the teacher's answers."""

    def run(student=student, split=split, recipe=RECIPE, answers=answers, classes=CLASSES, **more):
        return finetune_student(student, split, recipe, answers, classes, **more)

    return run


def test_a_taught_student_answers_more_like_its_teacher_than_one_alone(teach, split, teacher):
    recipe = replace(RECIPE, epochs=20)
    texts = torch.tensor(split.images)
    with torch.no_grad():
        wanted = soften(teacher(texts), 2)
    far = {"taught": 0.0, "alone": 0.0}
    for seed in (1, 2, 3):
        start, losses = lively(seed), []
        found = {
            "taught": teach(start, recipe=recipe, precision="fp32", on_step=losses.append),
            "alone": finetune(start, split, recipe, precision="fp32"),
        }
        assert sum(losses[-STEPS:]) < 0.3 * sum(losses[:STEPS])
        for how, model in found.items():
            with torch.no_grad():
                answered = soften(model(texts), 2)
            far[how] += float(F.kl_div(answered.log(), wanted, reduction="batchmean"))
    assert far["taught"] < 0.7 * far["alone"]


def test_a_student_that_looks_inside_comes_closer_there(teach, teacher, ids):
    recipe = replace(RECIPE, epochs=8)
    found = {
        weight: teach(recipe=recipe, precision="fp32", inside_of=teacher, inside_weight=weight)
        for weight in (0.0, 1.0)
    }
    far = {}
    for weight, model in found.items():
        with torch.no_grad():
            mine, theirs = look_inside(model, ids), look_inside(teacher, ids)
        pairs = zip(mine.attention, [theirs.attention[block] for block in (1, 3)], strict=True)
        is_word = ids.ne(0)[:, None, :, None]
        far[weight] = float(sum(((a - b) * is_word).square().sum() for a, b in pairs))
    assert far[1.0] < 0.7 * far[0.0]


def test_without_a_weight_inside_the_steps_are_those_of_the_answers_alone(teach, teacher):
    inside = teach(inside_of=teacher, inside_weight=0.0, precision="fp32")
    answers_only = teach(precision="fp32")
    for name, weight in answers_only.state_dict().items():
        torch.testing.assert_close(inside.state_dict()[name], weight, atol=1e-4, rtol=1e-3)


def test_fine_tuning_returns_a_copy_and_leaves_the_teacher_alone(teach, student, teacher):
    before = copy.deepcopy(student), copy.deepcopy(teacher)
    for inside_of in (None, teacher):
        tuned = teach(inside_of=inside_of)
        assert isinstance(tuned, Encoder)
        assert not tuned.training
        assert not torch.equal(tuned.head.weight, student.head.weight)
    assert_same_weights(student, before[0])
    assert_same_weights(teacher, before[1])
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("inside", [False, True])
def test_frozen_parameters_stay(teach, student, teacher, inside):
    student.tokens.weight.requires_grad_(False)
    tuned = teach(inside_of=teacher if inside else None)
    assert torch.equal(tuned.tokens.weight, student.tokens.weight)
    assert not torch.equal(tuned.positions, student.positions)


def test_classes_in_another_order_are_matched(teach, split, teacher):
    order = (2, 0, 1)
    places = np.array([order.index(label) for label in range(3)])
    turned = TextSplit(split.images, places[split.labels], split.texts)
    recipe = replace(RECIPE, epochs=15)
    named = [CLASSES[label] for label in order]
    tuned = teach(split=turned, recipe=recipe, classes=named, hard_share=0.0)
    images, labels = map(torch.tensor, (turned.images, turned.labels))
    assert evaluate(tuned, images, labels) > 0.8


def test_a_bag_of_embeddings_can_learn_answers_but_has_no_inside(teach, teacher):
    bag = build_bag(30, 8, 8, 3)
    tuned = teach(bag)
    assert not torch.equal(tuned.head.weight, bag.head.weight)
    with pytest.raises(ValueError, match=r"BagOfEmbeddings has no attention.*inside_of=None"):
        teach(bag, inside_of=teacher)


def test_the_inside_is_that_of_the_teacher_that_answered(teach):
    with pytest.raises(ValueError, match="answers are of another teacher than `inside_of`"):
        teach(inside_of=lively(9, LARGE))


def test_what_cannot_be_learned_is_refused(teach, split, teacher, tmp_path):
    texts = torch.from_numpy(split.images)
    twice = cache_answers(teacher, texts, CLASSES, Views(count=2), file=tmp_path / "twice")
    refused = [
        ({"split": draw_texts(64, 1)}, "The teacher was asked about other images"),
        ({"split": split.first(32)}, r"answers are about 64 \(\w{16}\), but these are 32"),
        ({"answers": twice}, "Texts have one view, but the teacher answered 2"),
        ({"classes": ("act", "food", "person")}, "only the teacher knows plant; only the student"),
        ({"temperature": 0}, "finite number above 0, not 0"),
        ({"temperature": math.inf}, "finite number above 0, not inf"),
        ({"hard_share": -0.5}, "from 0 to 1, not -0.5"),
        ({"student": lively(0, replace(SIZES, classes=4))}, r"student's logits .* \(16, 4\)"),
        ({"student": lively(0, replace(SIZES, heads=(2, 1))), "inside_of": teacher}, "by head"),
    ]
    for change, told in refused:
        steps = []
        with pytest.raises(ValueError, match=told):
            teach(**change, on_step=steps.append)
        assert steps == []


# Where it goes on


@pytest.mark.parametrize("how", ["alone", "taught", "inside"])
@pytest.mark.parametrize("last_epoch", [1, 2])
def test_a_fine_tuning_broken_off_ends_with_the_same_weights(
    teach, student, split, teacher, tmp_path, how, last_epoch
):
    def run(**settings):
        if how == "alone":
            return finetune(student, split, RECIPE, **settings)
        return teach(inside_of=teacher if how == "inside" else None, **settings)

    unbroken = run()
    state_file = tmp_path / "student.train_state"
    with pytest.raises(KeyboardInterrupt):
        run(state_file=state_file, on_epoch=stop_after(last_epoch))
    epochs = []
    resumed = run(state_file=state_file, on_epoch=lambda epoch, loss, model: epochs.append(epoch))
    assert epochs == list(range(last_epoch + 1, 4))
    assert_same_weights(resumed, unbroken)


def test_what_learns_beside_the_model_goes_on_too(student, split, tmp_path):
    def run(extra, **settings):
        def loss_of(model, ids, rows):
            return (extra(model.embed(ids)) - torch.arange(2.0)).square().mean()

        return finetune(student, split, RECIPE, loss_of=loss_of, extra=extra, **settings)

    start = nn.Linear(8, 2)
    extras = [copy.deepcopy(start) for _ in range(3)]
    unbroken = run(extras[0])
    assert not torch.equal(extras[0].weight, start.weight)
    state_file = tmp_path / "student.train_state"
    with pytest.raises(KeyboardInterrupt):
        run(extras[1], state_file=state_file, on_epoch=stop_after(2))
    assert_same_weights(run(extras[2], state_file=state_file), unbroken)
    assert_same_weights(extras[2], extras[0])
    assert torch.equal(unbroken.head.weight, student.head.weight)  # none of that loss


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 3}, "temperature 3, labels 30%"),
        ({"hard_share": 0.304}, "temperature 2, labels 30.4%"),
        ({"recipe": replace(RECIPE, seed=1)}, "'seed': 1"),
        ({"precision": "fp32"}, "precision fp32"),
    ],
)
def test_a_state_of_another_fine_tuning_is_refused(teach, tmp_path, change, told):
    state_file = tmp_path / "student.train_state"
    teach(state_file=state_file)
    written = state_file.read_bytes()
    with pytest.raises(ValueError, match=f"{state_file} holds the ") as error:
        teach(state_file=state_file, **change)
    assert told in str(error.value).split("but this training has the")[1]
    assert f"Remove {state_file}" in str(error.value)
    assert state_file.read_bytes() == written


def test_a_state_of_another_look_inside_is_refused(teach, teacher, tmp_path):
    state_file = tmp_path / "student.train_state"
    teach(inside_of=teacher, state_file=state_file)
    with pytest.raises(ValueError, match=r"holds the aim .* inside 1, but .* inside 2"):
        teach(inside_of=teacher, inside_weight=2, state_file=state_file)
    with pytest.raises(ValueError, match="holds the architecture"):  # a projection learns there
        teach(state_file=state_file)


def test_a_state_of_another_teacher_other_texts_or_no_state_is_refused(
    teach, student, split, tmp_path
):
    state_file = tmp_path / "student.train_state"
    teach(state_file=state_file)
    texts = torch.from_numpy(split.images)
    other = cache_answers(lively(9), texts, CLASSES, file=tmp_path / "other")
    with pytest.raises(ValueError, match="this training has the aim answers of") as error:
        teach(answers=other, state_file=state_file)
    assert other.about["weights"] in str(error.value)
    with pytest.raises(ValueError, match="but this training has the aim"):
        finetune(student, split, RECIPE, state_file=state_file)
    with pytest.raises(ValueError, match=r"holds the lessons 64 texts.*has the lessons 48 texts"):
        finetune(student, split.first(48), RECIPE, state_file=state_file)
    with pytest.raises(ValueError, match="holds the architecture"):
        finetune(lively(0, LARGE), split, RECIPE, state_file=state_file)
    state_file.write_bytes(state_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is no state of a training"):
        teach(state_file=state_file)


# Fine-tuning


def test_fine_tuning_learns_what_is_easy(split):
    images, labels = map(torch.tensor, (split.images, split.labels))
    losses, epochs, steps = [], [], []
    start = lively(3)

    def note(epoch, loss, model):
        epochs.append(epoch)
        losses.append(loss)

    recipe = replace(RECIPE, epochs=12)
    tuned = finetune(start, split, recipe, on_epoch=note, on_step=steps.append)
    assert evaluate(tuned, images, labels) > 0.8 > evaluate(start, images, labels)
    assert all(parameter.dtype == torch.float32 for parameter in tuned.parameters())
    assert epochs == list(range(1, 13))
    assert len(steps) == 12 * STEPS
    for epoch, loss in enumerate(losses):
        assert loss == pytest.approx(sum(steps[STEPS * epoch : STEPS * (epoch + 1)]) / STEPS)


def test_a_loss_of_ones_own_sees_the_model_the_texts_and_their_places(student, split):
    seen = []

    def loss_of(model, ids, rows):
        wanted = torch.tensor(split.images)[rows]
        assert model.training
        assert ids.dtype == torch.float32
        assert torch.equal(ids, wanted[:, : ids.shape[1]])
        assert not wanted[:, ids.shape[1] :].any()  # [PAD] is cut off, and nothing else
        assert ids[:, -1].any()
        seen.append(rows)
        return F.cross_entropy(
            model(ids).float(), torch.tensor(split.labels)[rows], label_smoothing=0.05
        )

    tuned = finetune(student, split, RECIPE, loss_of=loss_of)
    first, second = (torch.cat(seen[start : start + STEPS]) for start in (0, STEPS))
    assert torch.equal(first.sort().values, torch.arange(64))
    assert torch.equal(second.sort().values, torch.arange(64))
    assert not torch.equal(first, second)  # each epoch has an order of its own
    assert_same_weights(tuned, finetune(student, split, RECIPE))


@pytest.mark.parametrize("batch", [0, 65])
def test_texts_have_to_fill_a_batch(student, split, batch):
    with pytest.raises(ValueError, match=f"64 texts do not fill a batch of {batch}"):
        finetune(student, split, replace(RECIPE, batch=batch))


def test_an_unknown_precision_is_refused(student, split):
    with pytest.raises(ValueError, match="no precision 'fp12'"):
        finetune(student, split, RECIPE, precision="fp12")


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (STEPS, 1), (STEPS + 2, 2), (3 * STEPS, 3)])
def test_a_loss_that_is_no_number_keeps_the_last_good_model(student, split, step, epoch):
    good, steps = [copy.deepcopy(student)], []

    def loss_of(model, ids, rows):
        steps.append(1)
        loss = model(ids).square().mean()
        return loss * (math.nan if len(steps) == step else 1)

    with pytest.raises(DivergedError, match=f"no longer a number in epoch {epoch};") as error:
        finetune(
            student, split, RECIPE, loss_of=loss_of,
            on_epoch=lambda epoch, loss, model: good.append(copy.deepcopy(model)),
        )  # fmt: skip
    assert len(good) == epoch
    assert_same_weights(error.value.model, good[-1])
    assert not error.value.model.training
    assert "smaller learning rate than 0.01" in str(error.value)


def test_a_last_step_that_ruins_a_weight_is_not_kept(student, split, tmp_path):
    """The loss of that step is still a number, but its slope is none."""
    state_file = tmp_path / "student.train_state"
    good, steps = [], []

    def loss_of(model, ids, rows):
        steps.append(1)
        logits = model(ids).float()
        if len(steps) == 2 * STEPS:
            logits = logits + (logits - logits).abs().sqrt()
        return logits.square().mean()

    with pytest.raises(DivergedError, match="no longer a number in epoch 2;") as error:
        finetune(
            student, split, RECIPE, loss_of=loss_of, state_file=state_file,
            on_epoch=lambda epoch, loss, model: good.append(copy.deepcopy(model)),
        )  # fmt: skip
    assert len(good) == 1
    assert_same_weights(error.value.model, good[0])
    kept = torch.load(state_file, weights_only=True)
    assert kept["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())


# Batches and the learning rate


def test_batches_are_whole_and_of_each_text_at_most_once():
    ids = torch.tensor(draw_texts(50).images)
    batches = draw_batches(ids, 8, seed=3)
    assert [len(rows) for rows in batches] == [8] * 6
    assert len(torch.cat(batches).unique()) == 48


def test_batches_hold_texts_of_about_a_length_in_no_order_of_length():
    ids = torch.tensor(draw_texts(640).images)
    batches = draw_batches(ids, 16, seed=0)
    longest = [ids[rows].ne(0).sum(dim=1) for rows in batches]
    assert max(int(lengths.max() - lengths.min()) for lengths in longest) <= 1
    maxima = [int(lengths.max()) for lengths in longest]
    assert maxima not in (sorted(maxima), sorted(maxima, reverse=True))


def test_batches_depend_on_the_seed_alone():
    ids = torch.tensor(draw_texts(64).images)
    state = torch.random.get_rng_state()
    one, again, other = (torch.cat(draw_batches(ids, 16, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_learning_rate_rises_and_falls_linearly():
    shares = [share_of_rate(step, 10, 2) for step in range(1, 11)]
    assert shares == pytest.approx([0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
    assert share_of_rate(1, 1, 1) == 0
