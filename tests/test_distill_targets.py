"""What a student learns from: softened answers, their loss and its gradient, matching classes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_utils.distill import (
    align_classes,
    distillation_loss,
    measure_entropy,
    soft_loss,
    soften,
)

NO_TEMPERATURES = [0, -1.5, math.nan, math.inf, -math.inf]


def draw_logits(rows: int = 6, classes: int = 5, seed: int = 0, scale: float = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def slope(loss, *logits, **settings) -> torch.Tensor:
    """Return the gradient of a loss by the first logits."""
    student = logits[0].clone().requires_grad_()
    loss(student, *logits[1:], **settings).backward()
    return student.grad


# Softening


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_softened_answers_are_probabilities_with_the_same_order(temperature):
    logits = draw_logits()
    softened = soften(logits, temperature)
    exponentials = np.exp(logits.numpy() / temperature)
    wanted = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softened, wanted)
    assert torch.equal(softened.argsort(dim=1), logits.argsort(dim=1))


def test_softening_works_along_the_last_axis():
    logits = draw_logits(6, 4).view(2, 3, 4)
    assert torch.equal(soften(logits, 2)[1, 2], soften(logits[1, 2], 2))


def test_a_higher_temperature_has_a_higher_entropy_up_to_all_classes_alike():
    logits = draw_logits(1)[0]
    entropies = [float(measure_entropy(soften(logits, t))) for t in (0.01, 0.5, 1, 2, 4, 8, 1e6)]
    assert entropies == sorted(entropies)
    assert entropies[0] == pytest.approx(0, abs=1e-6)
    assert entropies[-1] == pytest.approx(math.log2(5))


def test_entropy_is_in_bits_and_takes_zeros():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.25, 0.125, 0.125]])
    assert measure_entropy(rows).tolist() == pytest.approx([0, 1, 2, 1.75])
    assert measure_entropy(rows.view(2, 2, 4)).shape == (2, 2)


# The loss


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_the_soft_loss_is_the_divergence_in_nats_times_the_square_of_the_temperature(temperature):
    student, teacher = draw_logits(seed=1), draw_logits(seed=2)
    wanted, answered = soften(teacher, temperature), soften(student, temperature)
    divergence = (wanted * (wanted / answered).log()).sum(dim=1).mean()
    found = soft_loss(student, teacher, temperature)
    torch.testing.assert_close(found, temperature**2 * divergence)
    assert found > 0


def test_the_soft_loss_is_0_where_both_say_the_same_whatever_is_added():
    logits = draw_logits()
    assert soft_loss(logits, logits + 7, 3) == pytest.approx(0, abs=1e-12)
    assert slope(soft_loss, logits, logits + 7, temperature=3).abs().max() < 1e-12


def test_the_soft_loss_does_not_overflow():
    far = torch.tensor([[60000.0, -60000.0, 0.0]])
    assert float(soft_loss(far, far.flip(1), 1)) == pytest.approx(60000)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities(temperature):
    student, teacher = draw_logits(seed=1), draw_logits(seed=2)
    wanted = temperature * (soften(student, temperature) - soften(teacher, temperature)) / 6
    torch.testing.assert_close(slope(soft_loss, student, teacher, temperature=temperature), wanted)


def test_at_a_high_temperature_the_gradient_is_that_of_the_distance_of_the_logits():
    """Hinton et al., equation 4: differences of logits, each row centred, over the classes."""
    student, teacher = draw_logits(seed=1), draw_logits(seed=2)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (student, teacher)]
    limit = (centred[0] - centred[1]) / 5 / 6
    off = [
        float((slope(soft_loss, student, teacher, temperature=t) - limit).norm() / limit.norm())
        for t in (10, 100, 1000)
    ]
    assert off[2] < 1e-2
    assert off[0] > 5 * off[1] > 25 * off[2]  # it falls as 1 / T


def test_the_square_of_the_temperature_keeps_gradients_comparable():
    student, teacher = draw_logits(seed=1), draw_logits(seed=2)
    sizes = [slope(soft_loss, student, teacher, temperature=t).norm() for t in (10, 1000)]
    bare = [size / t**2 for size, t in zip(sizes, (10, 1000), strict=True)]
    assert 0.5 < sizes[0] / sizes[1] < 2
    assert bare[0] / bare[1] > 5000


@pytest.mark.parametrize("temperature", [1, 4])
def test_a_share_of_0_is_the_teacher_alone_and_of_1_the_labels_alone(temperature):
    student, teacher, labels = draw_logits(seed=1), draw_logits(seed=2), torch.arange(6) % 5
    soft, hard = soft_loss(student, teacher, temperature), F.cross_entropy(student, labels)
    for share, wanted in ((0, soft), (1, hard), (0.25, 0.75 * soft + 0.25 * hard)):
        found = distillation_loss(student, teacher, labels, temperature, share)
        torch.testing.assert_close(found, wanted)
    other = draw_logits(seed=3)
    slopes = [slope(distillation_loss, student, answers, labels, temperature=temperature,
                    hard_share=1) for answers in (teacher, other)]  # fmt: skip
    assert torch.equal(*slopes)
    slopes = [slope(distillation_loss, student, teacher, truth, temperature=temperature,
                    hard_share=0) for truth in (labels, labels.flip(0))]  # fmt: skip
    assert torch.equal(*slopes)


# What is refused


@pytest.mark.parametrize("temperature", NO_TEMPERATURES)
@pytest.mark.parametrize(
    "use",
    [
        lambda logits, t: soften(logits, t),
        lambda logits, t: soft_loss(logits, logits, t),
        lambda logits, t: distillation_loss(logits, logits, torch.zeros(6).long(), t),
    ],
    ids=["soften", "soft_loss", "distillation_loss"],
)
def test_a_temperature_is_a_finite_number_above_0(use, temperature):
    with pytest.raises(ValueError, match=f"finite number above 0, not {temperature}"):
        use(draw_logits(), temperature)


@pytest.mark.parametrize("share", [-0.1, 1.1, 10, math.nan])
def test_a_share_is_between_0_and_1(share):
    logits = draw_logits()
    with pytest.raises(ValueError, match=f"from 0 to 1, not {share}"):
        distillation_loss(logits, logits, torch.zeros(6).long(), hard_share=share)


@pytest.mark.parametrize(("rows", "classes"), [(5, 5), (6, 4), (1, 5), (6, 1)])
def test_logits_of_other_shapes_are_named_even_where_they_would_broadcast(rows, classes):
    with pytest.raises(ValueError, match=rf"shape \(6, 5\), the teacher's of \({rows}, {classes}"):
        soft_loss(draw_logits(), draw_logits(rows, classes), 2)


# Classes


def test_classes_are_put_in_the_order_of_the_student():
    logits = torch.arange(12.0).view(2, 2, 3)
    found = align_classes(logits, ["cat", "dog", "eel"], ("eel", "cat", "dog"))
    assert found.tolist() == [[[2, 0, 1], [5, 3, 4]], [[8, 6, 7], [11, 9, 10]]]
    assert torch.equal(align_classes(logits, ["a", "b", "c"], ("a", "b", "c")), logits)


@pytest.mark.parametrize(
    ("student_classes", "told"),
    [
        (("cat", "dog", "fox"), "only the teacher knows eel; only the student knows fox"),
        (("cat", "dog"), "same classes: only the teacher knows eel. A student"),
        (("cat", "dog", "eel", "fox", "gnu"), "same classes: only the student knows fox, gnu. A"),
    ],
)
def test_classes_that_only_one_knows_are_named(student_classes, told):
    with pytest.raises(ValueError, match=told) as error:
        align_classes(torch.zeros(2, 3), ("cat", "dog", "eel"), student_classes)
    assert "choose a teacher of these classes" in str(error.value)


def test_as_many_classes_are_named_as_there_are_logits():
    with pytest.raises(ValueError, match="2 classes are named, but the teacher returns 3 logits"):
        align_classes(torch.zeros(2, 3), ("cat", "dog"), ("cat", "dog"))


@pytest.mark.parametrize(
    ("teacher_classes", "student_classes", "who"),
    [(["cat", "cat", "dog"], ["cat", "dog"], "teacher"),
     (["cat", "dog", "eel"], ["cat", "dog", "eel", "eel"], "student")],
)  # fmt: skip
def test_two_classes_of_one_name_are_refused(teacher_classes, student_classes, who):
    with pytest.raises(ValueError, match=f"Two classes of the {who} have the same name: cat"):
        align_classes(torch.zeros(2, 3), teacher_classes, student_classes)
