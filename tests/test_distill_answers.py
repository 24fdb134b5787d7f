"""A teacher's answers: the views they are about, what is kept of them, and what is refused."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from course_utils.distill import Views, answers, cache_answers, check_answers, load_answers
from course_utils.distill.answers import LARGEST, digest_weights, follow_views
from course_utils.encoder import Sizes, build_encoder
from course_utils.models import MLP, ResNet8, read_metadata

CLASSES = ("cat", "dog", "eel")
VIEWS = Views(count=3, flip=True, shift_pixels=1, erase_pixels=2)


@pytest.fixture(scope="module")
def pictures():
    """Return 20 images of 1x8x8."""
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build_mlp(seed: int = 0, sizes: tuple[int, ...] = (64, 8, 3)) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(list(sizes)).eval()


@pytest.fixture
def asked():
    """Return the list of what a ``teacher`` was asked."""
    return []


@pytest.fixture
def teacher(asked):
    mlp = build_mlp()
    mlp.register_forward_pre_hook(lambda model, inputs: asked.append(inputs[0]))
    return mlp


@pytest.fixture
def file(tmp_path):
    return tmp_path / "answers.safetensors"


class PowerCutError(Exception):
    """Stands for whatever ends the asking early."""


def cut_after(teacher: nn.Module, calls: int) -> None:
    """Let the teacher answer so many batches, and no more."""
    left = iter(range(calls))

    def cut(model, inputs):
        if next(left, None) is None:
            raise PowerCutError

    teacher.register_forward_pre_hook(cut)


# Views


def test_a_view_is_the_same_each_time_and_no_two_are_alike(pictures):
    state = torch.random.get_rng_state()
    drawn = [VIEWS.draw(pictures, view) for view in range(3)]
    again = [replace(VIEWS, count=7).draw(pictures, view) for view in range(3)]
    for one, other in zip(drawn, again, strict=True):
        assert torch.equal(one, other)
        assert one.shape == pictures.shape
        assert not torch.equal(one, pictures)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_of_a_view_differ_in_what_is_done_to_them_also_from_part_to_part(monkeypatch):
    monkeypatch.setattr(answers, "BATCH", 1)  # parts of ten
    same = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(20, 1, 8, 8)
    drawn = VIEWS.draw(same, 0)
    assert drawn.shape == same.shape
    assert not torch.equal(drawn[:10], drawn[10:])


@pytest.mark.parametrize("setting", [{"flip": True}, {"shift_pixels": 2}, {"erase_pixels": 3}])
def test_each_setting_alone_changes_images(pictures, setting):
    assert not torch.equal(Views(**setting).draw(pictures, 0), pictures)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 6), (4,)])
def test_what_is_not_to_be_varied_may_have_any_shape(shape):
    inputs = torch.arange(4.0).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    assert Views(count=2).draw(inputs, 1) is inputs


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_a_view_at_least(count):
    with pytest.raises(ValueError, match=f"At least one view is needed, not {count}"):
        Views(count=count)


def test_views_are_followed_epoch_by_epoch_and_begin_again(pictures):
    draw = follow_views(pictures, VIEWS)
    rows = torch.tensor([5, 0, 19])
    for epoch in (1, 2, 2, 3, 4, 1, 7):
        wanted = VIEWS.draw(pictures, (epoch - 1) % 3)[rows]
        assert torch.equal(draw(epoch, rows), wanted), epoch


def test_a_view_is_drawn_once_an_epoch(pictures, monkeypatch):
    drawn = []
    augment = answers.augment
    monkeypatch.setattr(answers, "augment", lambda *how: (drawn.append(1), augment(*how))[1])
    draw = follow_views(pictures, VIEWS)
    for epoch in (1, 1, 1, 2, 2):
        draw(epoch, torch.arange(4))
    assert len(drawn) == 2


# What is answered


def test_the_answers_are_the_teachers_to_each_view(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert found.logits.shape == (3, 20, 3)
    assert found.logits.dtype == torch.float16
    with torch.no_grad():
        wanted = [build_mlp()(VIEWS.draw(pictures, view)).half() for view in range(3)]
    assert torch.equal(found.logits, torch.stack(wanted))
    assert (found.views, found.classes) == (VIEWS, CLASSES)


def test_batches_are_put_together_in_order(teacher, asked, pictures, file, monkeypatch):
    monkeypatch.setattr(answers, "BATCH", 8)
    found = cache_answers(teacher, pictures, CLASSES, file=file)
    assert [len(batch) for batch in asked] == [8, 8, 4]
    with torch.no_grad():
        torch.testing.assert_close(found.logits[0], build_mlp()(pictures).half())


def test_answers_can_be_learned_from(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, file=file)
    student = torch.zeros(20, 3, requires_grad=True)
    (student * found.logits[0].float()).sum().backward()  # no tensors of inference mode
    assert torch.equal(student.grad, found.logits[0].float())


def test_token_ids_are_answered_as_well(file):
    ids = torch.randint(1, 30, (6, 5), generator=torch.Generator().manual_seed(0)).float()
    encoder = build_encoder(Sizes(30, 5, 8, (2,), 4, (8,), 3)).eval()
    found = cache_answers(encoder, ids, CLASSES, file=file)
    with torch.no_grad():
        torch.testing.assert_close(found.logits[0], encoder(ids).half())
    check_answers(found, ids)


def test_a_teacher_in_training_mode_is_asked_in_evaluation_mode_and_not_changed(pictures, file):
    resnet = ResNet8(width=2, classes=3)
    assert resnet.training
    before = copy.deepcopy(resnet)
    found = cache_answers(resnet, pictures, CLASSES, file=file)
    assert resnet.training
    assert digest_weights(resnet) == digest_weights(before)  # no statistics were counted
    with torch.no_grad():
        torch.testing.assert_close(found.logits[0], before.eval()(pictures).half())


def test_the_precision_is_that_of_the_teachers_layers(pictures, tmp_path):
    exact, rounded = (
        cache_answers(build_mlp(), pictures, CLASSES, file=tmp_path / name, precision=name)
        for name in ("fp32", "bf16")
    )
    assert not torch.equal(exact.logits, rounded.logits)
    torch.testing.assert_close(exact.logits, rounded.logits, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match="no precision 'fp12'"):
        cache_answers(build_mlp(), pictures, CLASSES, file=tmp_path / "x", precision="fp12")
    assert not (tmp_path / "x").exists()


def test_answers_that_float16_cannot_hold_are_clipped(pictures, file):
    class Loud(nn.Module):
        def forward(self, images):
            return torch.tensor([1e6, 0.5, -1e30]).expand(len(images), 3)

    found = cache_answers(Loud(), pictures, CLASSES, file=file)
    assert found.logits[0, 0].tolist() == [LARGEST, 0.5, -LARGEST]
    assert found.logits.isfinite().all()


@pytest.mark.parametrize("spoilt", ["nan", "inf", "-inf"])
def test_answers_that_are_no_numbers_are_refused_and_not_kept(teacher, pictures, file, spoilt):
    with torch.no_grad():
        teacher.layers[1].bias[1] = float(spoilt)
    with pytest.raises(ValueError, match="no finite numbers: its weights or images hold NaN"):
        cache_answers(teacher, pictures, CLASSES, file=file)
    assert not file.exists()


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "eel", "fox")])
def test_as_many_classes_are_named_as_there_are_logits(teacher, pictures, file, classes):
    told = f"returns 3 logits, but {len(classes)} classes are named"
    with pytest.raises(ValueError, match=told):
        cache_answers(teacher, pictures, classes, file=file)
    assert not file.exists()


def test_answers_are_put_in_the_order_of_the_students_classes(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    ordered = found.for_classes(["eel", "cat", "dog"])
    assert torch.equal(ordered.logits, found.logits[..., [2, 0, 1]])
    assert ordered.classes == ("eel", "cat", "dog")
    assert (ordered.views, ordered.about) == (found.views, found.about)
    with pytest.raises(ValueError, match="only the teacher knows eel; only the student knows fox"):
        found.for_classes(["fox", "cat", "dog"])


# What they are about


def test_answers_to_some_of_the_views_are_refused(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    with pytest.raises(ValueError, match="There are answers to 2 of 3 views"):
        check_answers(replace(found, logits=found.logits[:2]), pictures)


def test_answers_about_other_images_are_refused(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, file=file)
    check_answers(found, pictures.clone())
    others = [pictures[:19], pictures.flip(0), pictures * 0.5]
    for other in others:
        with pytest.raises(ValueError, match=r"about 20 \(\w{16}\), but these are") as error:
            check_answers(found, other)
        assert f"these are {len(other)} (" in str(error.value)
        assert "distill.cache_answers(teacher, images, classes)" in str(error.value)


def test_they_tell_where_they_are_from(teacher, pictures, file):
    found = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert found.about["teacher"].startswith("MLP of 547 parameters (")
    assert found.about["images"].startswith("20 (")
    assert json.loads(found.about["classes"]) == list(CLASSES)
    assert found.about["precision"] == "fp32"
    assert found.about["made_on"]
    assert len(found.about["date"]) == len("2026-01-31")


def test_models_with_the_same_weights_have_the_same_digest():
    assert digest_weights(build_mlp()) == digest_weights(build_mlp())
    assert digest_weights(build_mlp()) != digest_weights(build_mlp(1))
    resnet = ResNet8(width=2)
    before = digest_weights(resnet)
    resnet.norm.running_mean[0] = 1
    assert digest_weights(resnet) != before


# Those of the course


@pytest.fixture
def shipped(teacher, pictures, file, monkeypatch):
    """Return answers whose file stands for one of the course, named "by_mlp"."""
    found = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    contents = {"answers/by_mlp.safetensors": file.read_bytes()}
    monkeypatch.setattr(answers.verified, "read", contents.__getitem__)
    return found


def test_answers_of_the_course_are_read_without_asking(shipped, teacher, asked, pictures):
    read = load_answers("by_mlp", teacher, pictures)
    assert len(asked) == 3  # when they were made
    assert torch.equal(read.logits, shipped.logits)
    assert (read.views, read.classes, read.about) == (VIEWS, CLASSES, shipped.about)
    check_answers(read, pictures)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("what", ["teacher", "weights", "images"])
def test_answers_of_the_course_are_refused_for_another_teacher_or_images(teacher, pictures, what):
    question = {"teacher": teacher, "images": pictures, **OTHERS[what]}
    told = rf"by_mlp.safetensors holds answers of another kind \({what}\): .*stay: ask your own"
    with pytest.raises(ValueError, match=told):
        load_answers("by_mlp", **question)


# The file


def test_the_second_time_the_teacher_is_not_asked(teacher, asked, pictures, file):
    first = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert len(asked) == 3
    written = file.read_bytes()
    again = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert len(asked) == 3
    assert torch.equal(again.logits, first.logits)
    assert (again.views, again.classes, again.about) == (first.views, first.classes, first.about)
    assert file.read_bytes() == written
    assert [one.name for one in file.parent.iterdir() if one.is_file()] == [file.name]


def test_without_a_file_they_are_kept_in_the_cache_one_file_for_each_question(
    teacher, asked, pictures, tmp_path
):
    found = cache_answers(teacher, pictures, CLASSES)
    again = cache_answers(teacher, pictures, CLASSES)
    assert len(asked) == 1
    assert torch.equal(found.logits, again.logits)
    cache_answers(teacher, pictures, CLASSES, VIEWS)
    cache_answers(teacher, pictures[:10], CLASSES)
    cache_answers(build_mlp(1), pictures, CLASSES)
    kept = list((tmp_path / "cache" / "answers").iterdir())
    assert len(kept) == 4
    assert all(one.suffix == ".safetensors" for one in kept)


@pytest.mark.parametrize("views_done", [0, 1, 2])
def test_what_was_broken_off_goes_on_after_the_views_that_are_there(
    teacher, asked, pictures, tmp_path, views_done
):
    whole = cache_answers(build_mlp(), pictures, CLASSES, VIEWS, file=tmp_path / "whole")
    file = tmp_path / "not" / "there" / "answers.safetensors"
    breaking = build_mlp()
    cut_after(breaking, views_done)
    with pytest.raises(PowerCutError):
        cache_answers(breaking, pictures, CLASSES, VIEWS, file=file)
    assert file.exists() == (views_done > 0)
    resumed = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert len(asked) == 3 - views_done
    assert torch.equal(resumed.logits, whole.logits)


def test_a_file_half_written_is_never_taken_for_one(teacher, asked, pictures, file, monkeypatch):
    breaking = build_mlp()
    cut_after(breaking, 1)
    with pytest.raises(PowerCutError):
        cache_answers(breaking, pictures, CLASSES, VIEWS, file=file)
    written = file.read_bytes()

    def cut(source, target):
        source.write_bytes(b"half of it")
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(answers.os, "replace", cut)
        with pytest.raises(PowerCutError):
            cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert file.read_bytes() == written
    cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert len(asked) == 1 + 2
    assert [one.name for one in file.parent.iterdir() if one.is_file()] == [file.name]


OTHERS = {
    "teacher": {"teacher": build_mlp(0, (64, 9, 3))},
    "weights": {"teacher": build_mlp(1)},
    "images": {"images": torch.zeros(20, 1, 8, 8)},
    "views": {"views": replace(VIEWS, shift_pixels=2)},
    "classes": {"classes": ("dog", "cat", "eel")},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("what", [*OTHERS, "count of images", "count of views"])
def test_a_file_of_another_kind_is_refused_with_both_named(teacher, asked, pictures, file, what):
    first = cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    written = file.read_bytes()
    question = {"teacher": teacher, "images": pictures, "classes": CLASSES, "views": VIEWS}
    counts = {
        "count of images": {"images": pictures[:19]},
        "count of views": {"views": replace(VIEWS, count=4)},
    }
    question |= {**OTHERS, **counts}[what]
    named = what.removeprefix("count of ")
    with pytest.raises(ValueError, match=rf"answers of another kind \({named}\)") as error:
        cache_answers(**question, file=file)
    told = str(error.value)
    assert f"({named}): {first.about[named]}, wanted: " in told
    assert f"Remove {file}, or name another file, to ask the teacher anew." in told
    assert file.read_bytes() == written
    assert len(asked) == 3


def test_statistics_of_a_teacher_count_as_its_weights(pictures, file):
    resnet = ResNet8(width=2, classes=3).eval()
    cache_answers(resnet, pictures, CLASSES, file=file)
    resnet.norm.running_var[0] = 2
    with pytest.raises(ValueError, match=r"answers of another kind \(weights\)"):
        cache_answers(resnet, pictures, CLASSES, file=file)


def edit_first_answer(content: bytes) -> bytes:
    stored = load(content)
    stored["view0"][0, 0] += 1
    return save(stored, read_metadata(content))


def leave_out_a_view(content: bytes) -> bytes:
    stored = {name: one for name, one in load(content).items() if name != "view2"}
    return save(stored, read_metadata(content))


def name_a_view_anew(content: bytes) -> bytes:
    stored = load(content)
    stored["view9"] = stored.pop("view1")
    return save(stored, read_metadata(content))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: b"", "holds no teacher's answers"),
        (lambda content: content[: len(content) // 2], "holds no teacher's answers"),
        (lambda content: content[:-1], "holds no teacher's answers"),
        (lambda content: b"certainly no answers", "holds no teacher's answers"),
        (lambda content: save(load(content)), "holds no teacher's answers"),  # no notes
        (lambda content: save({}, {"weights": "none"}), "holds answers of another kind"),
        (name_a_view_anew, "holds no teacher's answers"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "is damaged"),
        (edit_first_answer, "is damaged"),
        (leave_out_a_view, "is damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_advice(teacher, asked, pictures, file, damage, told):
    cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    content = damage(file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {told}") as error:
        cache_answers(teacher, pictures, CLASSES, VIEWS, file=file)
    assert f"Remove {file}, or name another file" in str(error.value)
    assert file.read_bytes() == content  # left for who wants to look at it
    assert len(asked) == 3
