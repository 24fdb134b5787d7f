"""The checks of lesson 05: a student's loss, entropy at a temperature, a student for a budget."""

import copy
import math
import operator
import statistics
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions
from torch.nn import functional as F

from course_utils import distill
from course_utils.checks import distillation, entropy, student
from course_utils.checks.distillation import LOSS_MISTAKES, check_loss
from course_utils.checks.entropy import ENTROPY_MISTAKES, check_entropy
from course_utils.checks.student import STUDENT_MISTAKES, check_student

SOLVED = load_solutions("05_distillation")
distillation_loss, entropy_at, choose_student = (
    SOLVED.distillation_loss, SOLVED.entropy_at, SOLVED.choose_student,
)  # fmt: skip


def failing(*_):
    raise ZeroDivisionError("divided by no students")


# The loss: right answers


def loss_of(soft, hard=F.cross_entropy, *, power=2):
    """Return a loss with a soft part of three arguments (both logits, T), and a hard one."""

    def attempt(student_logits, teacher_logits, labels, temperature, hard_share):
        part = soft(student_logits, teacher_logits, temperature)
        weighted = (1 - hard_share) * temperature**power * part
        return weighted + hard_share * hard(student_logits, labels)

    return attempt


def by_kl_div(answered, wanted, temperature):
    return F.kl_div(
        F.log_softmax(answered / temperature, 1), F.softmax(wanted / temperature, 1),
        reduction="batchmean",
    )  # fmt: skip


def by_hand(answered, wanted, temperature):
    """Divide by the sums of the powers; all in double precision."""
    answered, wanted = (
        z.double() / temperature - (z.double() / temperature).logsumexp(1, keepdim=True)
        for z in (answered, wanted)
    )
    return (wanted.exp() * (wanted - answered)).sum() / len(wanted)


def by_entropies(answered, wanted, temperature):
    """Take the teacher's entropy from the cross-entropy with its answers."""
    probabilities = F.softmax(wanted / temperature, 1)
    entropy = torch.special.entr(probabilities).sum(1).mean()
    return F.cross_entropy(answered / temperature, probabilities) - entropy


def by_torch_distributions(answered, wanted, temperature):
    """Clamped probabilities would do here too, but its logarithms come from the logits."""
    first, second = (
        torch.distributions.Categorical(logits=z.double() / temperature) for z in (wanted, answered)
    )
    return (first.probs * (first.logits - second.logits)).sum(1).mean()


def image_by_image(student_logits, teacher_logits, labels, temperature, hard_share):
    losses = [
        distillation_loss(a[None], w[None], label[None], temperature, hard_share)
        for a, w, label in zip(student_logits, teacher_logits, labels, strict=True)
    ]
    return torch.stack(losses).mean()


def with_a_teacher_from_numpy(student_logits, teacher_logits, *others):
    return distillation_loss(student_logits, torch.tensor(teacher_logits.numpy()), *others)


RIGHT_LOSSES = [
    distillation_loss, distill.distillation_loss, loss_of(by_kl_div), loss_of(by_hand),
    loss_of(by_entropies), loss_of(by_torch_distributions), image_by_image,
    with_a_teacher_from_numpy,
    loss_of(lambda a, w, t: F.kl_div(
        F.log_softmax(a / t, 1), F.log_softmax(w / t, 1), log_target=True, reduction="sum"
    ) / len(a)),
    loss_of(lambda a, w, t: by_kl_div(a, w.detach(), t), lambda a, labels: F.nll_loss(
        F.log_softmax(a, 1), labels)),
    loss_of(lambda a, w, t: by_kl_div(a, w, t) * t**2, power=0),
]  # fmt: skip

LOGITS = st.lists(
    st.tuples(*[st.integers(-20, 20).map(lambda number: number / 4)] * 6, st.integers(0, 2)),
    min_size=1,
    max_size=4,
)


@given(LOGITS, st.sampled_from([0.5, 1.0, 2.5, 8.0]), st.sampled_from([0.0, 0.25, 1.0]))
def test_the_right_loss_is_that_of_plain_python(rows, temperature, share):
    def soften(logits, at):
        powers = [math.exp(z / at) for z in logits]
        return [power / sum(powers) for power in powers]

    right = 0.0
    for row in rows:
        answered, wanted = soften(row[:3], temperature), soften(row[3:6], temperature)
        kl = sum(p * math.log(p / q) for p, q in zip(wanted, answered, strict=True))
        surprise = -math.log(soften(row[:3], 1)[row[6]])
        right += ((1 - share) * temperature**2 * kl + share * surprise) / len(rows)
    logits = torch.tensor([row[:6] for row in rows])
    case = (logits[:, :3], logits[:, 3:], torch.tensor([row[6] for row in rows]))
    task = distillation._Task(*case, temperature, share)
    assert task.right.loss.item() == pytest.approx(right, rel=1e-4, abs=1e-4)
    assert task.hard.item() * share + (1 - share) * temperature**2 * task.soft.item() == (
        pytest.approx(right, rel=1e-6, abs=1e-9)
    )


# The loss: wrong answers


def probabilities(logits, temperature):
    """Return the softmax with the largest logit taken away, and no logarithm in it."""
    return F.softmax(logits / temperature, 1)


def by_logarithms_of_softmax(a, w, t):
    q, p = probabilities(a, t), probabilities(w, t)
    return (p * (p.log() - q.log())).sum(1).mean()


def by_clipped_logarithms(a, w, t):
    q, p = probabilities(a, t), probabilities(w, t)
    return (p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(1).mean()


def by_plain_exponentials(a, w, t):
    q, p = ((z / t).exp() / (z / t).exp().sum(1, keepdim=True) for z in (a, w))
    return (p * (p.log() - q.log())).sum(1).mean()


def kl_div(prepare_answered, prepare_wanted, **settings):
    """Return a soft part of whatever is put into ``F.kl_div``."""
    settings = {"reduction": "batchmean"} | settings
    return lambda a, w, t: F.kl_div(prepare_answered(a, t), prepare_wanted(w, t), **settings)


def log_probabilities(logits, temperature):
    return F.log_softmax(logits / temperature, 1)


def in_place(student_logits, teacher_logits, labels, temperature, hard_share):
    hard = F.cross_entropy(student_logits, labels)
    student_logits /= temperature
    teacher_logits /= temperature
    return (1 - hard_share) * temperature**2 * by_kl_div(
        student_logits, teacher_logits, 1
    ) + hard_share * hard


def dividing_the_teacher_in_place(student_logits, teacher_logits, labels, temperature, share):
    teacher_logits /= temperature
    return distillation_loss(
        student_logits, teacher_logits * temperature, labels, temperature, share
    )


def through_numpy(student_logits, *others):
    return distillation_loss(torch.tensor(student_logits.numpy()), *others)


def through_detached_numpy(student_logits, *others):
    return distillation_loss(torch.tensor(student_logits.detach().numpy()), *others)


def without_gradient(*case):
    with torch.no_grad():
        return distillation_loss(*case)


def with_backward(*case):
    loss = distillation_loss(*case)
    loss.backward()
    return loss


def changed(change):
    return lambda *case: change(distillation_loss(*case))


def mixed(mix):
    """Return a loss of the right parts, mixed in another way."""
    return lambda a, w, labels, t, share: mix(
        by_kl_div(a, w, t), F.cross_entropy(a, labels), t, share
    )


def hard_with(hard):
    return lambda a, w, labels, t, share: (
        (1 - share) * t**2 * by_kl_div(a, w, t) + share * hard(a, w, labels, t)
    )


def with_soft_labels(a, w, labels, t, share):
    soft = F.kl_div(log_probabilities(a, t), F.one_hot(labels, a.shape[1]) * 1.0,
                    reduction="batchmean")  # fmt: skip
    return (1 - share) * t**2 * soft + share * F.cross_entropy(a, labels)


WRONG_LOSSES = [
    (through_numpy, "leaves PyTorch"),
    (in_place, "works in place"),
    (changed(torch.Tensor.item), "no tensor"),
    (changed(lambda loss: loss.detach().numpy()), "no tensor"),
    (changed(lambda loss: (loss, loss)), "no tensor"),
    (lambda *case: "0.7", "no tensor"),
    (loss_of(lambda a, w, t: (probabilities(w, t) * (
        log_probabilities(w, t) - log_probabilities(a, t))).sum(1)), "no scalar"),
    (loss_of(kl_div(log_probabilities, probabilities, reduction="none")), "no scalar"),
    (loss_of(by_kl_div, lambda a, labels: F.cross_entropy(a, labels, reduction="none")),
     "no scalar"),
    (changed(lambda loss: loss[None]), "no scalar"),
    (loss_of(by_logarithms_of_softmax), "large logits"),
    (loss_of(by_clipped_logarithms), "large logits"),
    (loss_of(by_plain_exponentials), "large logits"),
    (loss_of(by_kl_div, lambda a, labels: F.nll_loss(F.softmax(a, 1).log(), labels)),
     "large logits"),
    (loss_of(kl_div(log_probabilities, lambda w, t: w / t)), "not finite"),
    (loss_of(kl_div(log_probabilities, log_probabilities)), "not finite"),
    (loss_of(by_kl_div, lambda a, labels: a.log().mean()), "not finite"),
    (mixed(lambda soft, hard, t, share: (1 - share) * t**2 * soft), "labels ignored"),
    (mixed(lambda soft, hard, t, share: t**2 * soft), "labels ignored"),
    (mixed(lambda soft, hard, t, share: soft), "labels ignored"),
    (mixed(lambda soft, hard, t, share: hard), "teacher ignored"),
    (mixed(lambda soft, hard, t, share: share * hard), "teacher ignored"),
    (loss_of(lambda a, w, t: by_kl_div(a, a, t)), "teacher ignored"),
    (mixed(lambda soft, hard, t, share: share * t**2 * soft + (1 - share) * hard),
     "shares swapped"),
    (mixed(lambda soft, hard, t, share: share * soft + (1 - share) * hard), "shares swapped"),
    (mixed(lambda soft, hard, t, share: t**2 * soft + hard), "share forgotten"),
    (mixed(lambda soft, hard, t, share: t**2 * soft + share * hard), "share forgotten"),
    (mixed(lambda soft, hard, t, share: (1 - share) * t**2 * soft + hard), "share forgotten"),
    (loss_of(by_kl_div, power=0), "no T**2"),
    (loss_of(by_kl_div, power=1), "another power of T"),
    (loss_of(by_kl_div, power=4), "another power of T"),
    (loss_of(by_kl_div, power=-2), "another power of T"),
    (mixed(lambda soft, hard, t, share: t**2 * ((1 - share) * soft + share * hard)),
     "T**2 on the labels"),
    (loss_of(lambda a, w, t: by_kl_div(w, a, t)), "wrong way round"),
    (loss_of(kl_div(lambda a, t: probabilities(a, t).log(), probabilities)), "large logits"),
    (loss_of(lambda a, w, t: F.kl_div(log_probabilities(w, t), probabilities(a, t),
                                      reduction="batchmean"), power=0), "wrong way round"),
    (loss_of(lambda a, w, t: -by_kl_div(a, w, t)), "wrong sign"),
    (loss_of(lambda a, w, t: F.cross_entropy(a / t, probabilities(w, t))),
     "cross-entropy for divergence"),
    (loss_of(lambda a, w, t: F.cross_entropy(a / t, probabilities(w, t)), power=0),
     "cross-entropy for divergence"),
    (with_soft_labels, "labels for the teacher"),
    (lambda a, w, labels, t, share: (1 - share) * F.cross_entropy(a / t, labels)
     + share * F.cross_entropy(a, labels), "labels for the teacher"),
    (hard_with(lambda a, w, labels, t: F.cross_entropy(a / t, labels)), "hard part softened"),
    (hard_with(lambda a, w, labels, t: t**2 * F.cross_entropy(a / t, labels)),
     "hard part softened"),
    (hard_with(lambda a, w, labels, t: F.cross_entropy(w, labels)), "teacher graded"),
    (hard_with(lambda a, w, labels, t: F.cross_entropy(F.softmax(a, 1), labels)), "softmax twice"),
    (hard_with(lambda a, w, labels, t: F.cross_entropy(F.softmax(a / t, 1), labels)),
     "softmax twice"),
    (loss_of(kl_div(log_probabilities, probabilities, reduction="sum")), "summed over the batch"),
    (loss_of(kl_div(log_probabilities, probabilities, reduction="sum"), power=0),
     "summed over the batch"),
    (loss_of(by_kl_div, lambda a, labels: F.cross_entropy(a, labels, reduction="sum")),
     "summed over the batch"),
    (changed(lambda loss: 3 * loss), "summed over the batch"),
    (loss_of(lambda a, w, t: (by_kl_div(a, w, t) / a.shape[1])), "mean over classes too"),
    (loss_of(lambda a, w, t: by_kl_div(a, w, t) / a.shape[1], power=0), "mean over classes too"),
    (loss_of(lambda a, w, t: by_kl_div(a, w * t, t)), "not softened"),
    (loss_of(lambda a, w, t: by_kl_div(a * t, w, t)), "not softened"),
    (loss_of(lambda a, w, t: by_kl_div(a, w, 1)), "not softened"),
    (loss_of(lambda a, w, t: by_kl_div(a, w, 1), power=0), "not softened"),
    (loss_of(lambda a, w, t: by_kl_div(a, w, 1 / t)), "multiplied by T"),
    (loss_of(kl_div(probabilities, probabilities)), "probabilities for logarithms"),
    (loss_of(kl_div(probabilities, probabilities, log_target=True)),
     "probabilities for logarithms"),
    (loss_of(kl_div(log_probabilities, probabilities, log_target=True)),
     "probabilities for logarithms"),
    (loss_of(lambda a, w, t: by_kl_div(a, w, t) / math.log(2)), "bits"),
    (loss_of(lambda a, w, t: F.kl_div(F.log_softmax(a / t, 0), F.softmax(w / t, 0),
                                      reduction="batchmean")), "softmax over the batch"),
    (without_gradient, "gradient lost"),
    (through_detached_numpy, "gradient lost"),
    (changed(torch.Tensor.detach), "gradient lost"),
    (changed(lambda loss: torch.tensor(loss.item())), "gradient lost"),
    (lambda a, *others: distillation_loss(a.detach(), *others), "gradient lost"),
    (loss_of(lambda a, w, t: by_kl_div(a.detach(), w, t)), "gradient wrong"),
    (loss_of(by_kl_div, lambda a, labels: F.cross_entropy(a.data, labels)), "gradient wrong"),
    (with_backward, "gradient wrong"),
    (lambda *case: torch.tensor(0.7), "gradient lost"),
    (dividing_the_teacher_in_place, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda *case: distillation_loss(*case) if len(case[0]) != 5 else case[0].sum(),
     "wrong result"),
    (failing, "raises"),
    (lambda student_logits: student_logits.sum(), "raises"),
    (42, "raises"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_the_default_reduction_of_pytorch_is_named():
    attempt = loss_of(kl_div(log_probabilities, probabilities, reduction="mean"))
    assert check_loss(attempt).state == "mean over classes too"


def test_the_gradient_of_a_right_answer_is_the_students():
    case = distillation.CASES[0]
    right = distillation._Task(*case).right
    step = 1e-2 * right.gradient
    moved = distillation_loss(case[0] - step, *case[1:])
    gain = right.loss.item() - moved.item()
    assert gain == pytest.approx((step * right.gradient).sum().item(), rel=0.05)


# Entropy: right answers


def entropy_in_torch(logits, temperature):
    return distill.measure_entropy(distill.soften(torch.tensor(logits), temperature))


def entropy_in_plain_python(logits, temperature):
    """Skip what is 0; sum up one by one."""
    top = max(map(float, logits))
    powers = [math.exp((float(z) - top) / temperature) for z in logits]
    shares = [power / sum(powers) for power in powers]
    return -sum(p * math.log2(p) for p in shares if p)


def entropy_by_log_sum(logits, temperature):
    """Take the logarithm of the sum of powers, less the mean logit."""
    z = logits.astype(np.float64) / temperature
    total = np.logaddexp.reduce(z)
    return (total - (np.exp(z - total) * z).sum()) / np.log(2)


def entropy_with_an_epsilon(logits, temperature):
    p = softmax(logits.astype(np.float64) / temperature)
    return -(p * np.log2(p + 1e-12)).sum()


def softmax(z):
    powers = np.exp(z - z.max())
    return powers / powers.sum()


RIGHT_ENTROPIES = [
    entropy_at, entropy_in_torch, entropy_in_plain_python, entropy_by_log_sum,
    entropy_with_an_epsilon,
    lambda *case: np.float32(entropy_at(*case)), lambda *case: np.array([entropy_at(*case)]),
]  # fmt: skip


@given(
    st.lists(st.integers(-40, 40).map(lambda number: number / 4), min_size=1, max_size=6),
    st.sampled_from([0.5, 1.0, 3.0, 20.0]),
)
def test_all_right_entropies_agree(numbers, temperature):
    logits = np.array(numbers, np.float32)
    right = entropy_in_plain_python(logits, temperature)
    assert -1e-9 <= right <= math.log2(len(numbers)) + 1e-9
    for attempt in RIGHT_ENTROPIES[:5]:
        assert float(attempt(logits, temperature)) == pytest.approx(right, rel=1e-4, abs=2e-5)


# Entropy: wrong answers


def entropy_of(p, logarithm=np.log2):
    return -(p * logarithm(p, where=p > 0, out=np.zeros_like(p))).sum()


def in_silence(attempt):
    """Return an answer that is wrong with a warning, without the warning."""

    def quiet(*case):
        with np.errstate(all="ignore"):
            return attempt(*case)

    return quiet


def plain_softmax(z):
    powers = np.exp(z)
    return powers / powers.sum()


def without_the_largest(logits, temperature):
    """Leave out what is 0, but do not take the largest logit away."""
    p = plain_softmax(logits / temperature)
    p = p[p != 0]
    return -(p * np.log2(p)).sum()


def with_every_class(logits, temperature):
    p = softmax(logits / temperature)
    return -(p * np.log2(p)).sum()


def entropy_of_shifted(logits, temperature):
    logits -= logits.max()
    return entropy_at(logits, temperature)


WRONG_ENTROPIES = [
    (lambda z, t: -softmax(z / t) * np.log2(softmax(z / t)), "no number"),
    (lambda *case: [entropy_at(*case)] * 2, "no number"),
    (lambda *case: f"{entropy_at(*case)} bits", "no number"),
    (lambda *case: (entropy_at(*case), "bits"), "no number"),
    (lambda *case: torch.tensor([1.0, 2.0]), "no number"),
    (in_silence(without_the_largest), "overflow"),
    (in_silence(lambda z, t: entropy_of(plain_softmax(z.astype(float) / t))), "overflow"),
    (in_silence(with_every_class), "logarithm of 0"),
    (in_silence(lambda z, t: -(plain_softmax(z / t) * np.log2(plain_softmax(z / t))).sum()),
     "logarithm of 0"),
    (in_silence(lambda z, t: -(z * np.log2(z)).sum()), "logarithm of logits"),
    (in_silence(lambda z, t: -(softmax(z / t) * np.log2(z / t)).sum()), "logarithm of logits"),
    (lambda *case: math.inf, "logarithm of logits"),
    (lambda *case: -entropy_at(*case), "wrong sign"),
    (lambda z, t: entropy_of(softmax(z / t), np.log), "other unit"),
    (lambda z, t: entropy_of(softmax(z / t), np.log10), "other unit"),
    (lambda z, t: entropy_at(z, t) / math.log2(len(z)), "share of the largest"),
    (lambda z, t: math.log2(len(z)), "largest possible"),
    (lambda z, t: entropy_at(0 * z, t), "largest possible"),
    (lambda z, t: entropy_at(z, 1), "no temperature"),
    (lambda z, t: entropy_at(z, 1 / t), "multiplied"),
    (lambda z, t: entropy_at(z * t, 1), "multiplied"),
    (lambda z, t: entropy_of(softmax(z) / t), "behind the softmax"),
    (lambda z, t: entropy_at(z, 1) / t, "behind the softmax"),
    (lambda z, t: entropy_at(z, t) / t, "behind the softmax"),
    (lambda z, t: entropy_at(z, t) * t, "behind the softmax"),
    (lambda z, t: entropy_of(np.exp(z / t)), "sum is not 1"),
    (lambda z, t: entropy_of(np.exp((z - z.max()) / t)), "sum is not 1"),
    (lambda z, t: entropy_of(softmax(z) ** (1 / t)), "sum is not 1"),
    (entropy_of_shifted, "argument changed"),
    (lambda z, t: entropy_at(z, t) + 0.01, "wrong result"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda logits: 1.0, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_entropy_hold_what_the_task_speaks_of():
    found = [entropy_in_plain_python(*case) for case in entropy.ENTROPY_CASES]
    assert found[4] == pytest.approx(math.log2(10))
    assert found[1] < found[2] < found[3]
    assert all(logits.dtype == np.float32 for logits, _ in entropy.ENTROPY_CASES)
    rare, large = entropy.ENTROPY_CASES[-2:]
    with np.errstate(all="ignore"):
        assert np.isfinite(np.exp(rare[0] / rare[1])).all()
        assert (softmax(rare[0].astype(float) / rare[1]) == 0).any()
        assert np.isinf(np.exp(large[0].astype(float) / large[1])).all()
    assert (softmax(large[0] / large[1]) > 0.1).all()


# A student for a budget: right answers


def student_by_sorting(students, budget):
    """Put aside what does not fit, then sort by accuracy and way."""
    rows = []
    for one in students:
        if one["latency_ms"] > budget["latency_ms"] or one["size_bytes"] > budget["size_bytes"]:
            continue
        alone, distilled = np.array(one["alone"]), np.array(one["distilled"])
        how = "alone"
        if distilled.mean() - alone.mean() > max(np.ptp(alone), np.ptp(distilled)):
            how = "distilled"
        rows.append((np.mean(one[how]), one["name"], how))
    return sorted(rows)[-1][1:] if rows else None


def student_by_a_loop(students, budget):
    best, chosen = -math.inf, None
    for one in students:
        means, spread = {}, 0
        for way in ("alone", "distilled"):
            means[way] = sum(one[way]) / len(one[way])
            spread = max(spread, max(one[way]) - min(one[way]))
        how = "distilled" if means["distilled"] > means["alone"] + spread else "alone"
        fits = one["latency_ms"] <= budget["latency_ms"]
        fits = fits and one["size_bytes"] <= budget["size_bytes"]
        if fits and means[how] >= best:
            best, chosen = means[how], (one["name"], how)
    return chosen


RIGHT_STUDENTS = [choose_student, student_by_sorting, student_by_a_loop]

SEEDS = st.sampled_from([1, 2, 4]).flatmap(
    lambda count: st.lists(st.integers(88, 92), min_size=count, max_size=count)
)
STUDENTS = st.lists(
    st.builds(
        student._make, st.uuids().map(str), SEEDS, SEEDS, st.integers(1, 3), st.integers(1, 3)
    ),
    max_size=5,
)


@given(STUDENTS, st.integers(1, 3), st.integers(1, 3))
def test_the_best_of_what_fits_is_right_whichever_of_equals_it_is(students, ms, size):
    scores = {}
    for one in students:
        means = {way: Fraction(sum(one[way]), len(one[way])) for way in ("alone", "distilled")}
        spread = max(max(one[way]) - min(one[way]) for way in means)
        how = "distilled" if means["distilled"] - means["alone"] > spread else "alone"
        if one["latency_ms"] <= ms and one["size_bytes"] <= size:
            scores[one["name"], how] = means[how]
    right = {pair for pair in scores if scores[pair] == max(scores.values())}
    budget = {"latency_ms": ms, "size_bytes": size}
    assert set(student._choose(students, budget)) == right
    for attempt in RIGHT_STUDENTS:
        found = attempt(students, budget)
        assert found in right if right else found is None


# A student for a budget: wrong answers


def is_small(one, budget):
    return one["size_bytes"] <= budget["size_bytes"]


def is_fast(one, budget):
    return one["latency_ms"] <= budget["latency_ms"]


def fits(one, budget):
    return is_small(one, budget) and is_fast(one, budget)


def range_of(accuracies):
    return max(accuracies) - min(accuracies)


def larger_spread(alone, distilled):
    return max(range_of(alone), range_of(distilled))


def way_by(spread=larger_spread, *, mean=statistics.fmean):
    """Return the rule that chooses a way by another spread, or by another mean."""
    return lambda one: (
        "distilled"
        if mean(one["distilled"]) - mean(one["alone"]) > spread(one["alone"], one["distilled"])
        else "alone"
    )


def accuracy(one, way):
    return statistics.fmean(one[way])


the_way = way_by()


def best_by(fits=fits, way=the_way, key=accuracy, pick=max):
    """Return a search for the best by another rule, or by another measure."""

    def attempt(students, budget):
        kept = [one for one in students if fits(one, budget)]
        best = pick(kept, key=lambda one: key(one, way(one)), default=None)
        return best and (best["name"], way(best))

    return attempt


def at_least_the_spread(one):
    gain = accuracy(one, "distilled") - accuracy(one, "alone")
    return "distilled" if gain >= larger_spread(one["alone"], one["distilled"]) else "alone"


def any_difference(one):
    gain = accuracy(one, "distilled") - accuracy(one, "alone")
    return "distilled" if abs(gain) > larger_spread(one["alone"], one["distilled"]) else "alone"


def below(*limits):
    return lambda one, budget: (
        fits(one, budget) and all(one[limit] < budget[limit] for limit in limits)
    )


def by_place(place):
    """Return the choice of the first or last student that fits."""

    def attempt(students, budget):
        kept = [one for one in students if fits(one, budget)]
        return (kept[place]["name"], the_way(kept[place])) if kept else None

    return attempt


def whatever_is_smallest(students, budget):
    """If nothing fits, take the smallest all the same."""
    smallest = best_by(lambda *_: True, key=lambda one, way: one["size_bytes"], pick=min)
    return choose_student(students, budget) or smallest(students, budget)


def without_default(students, budget):
    kept = [one for one in students if fits(one, budget)]
    best = max(kept, key=lambda one: accuracy(one, the_way(one)))
    return best["name"], the_way(best)


def changed_choice(change):
    return lambda *case: (found := choose_student(*case)) and change(*found)


def sorting_in_place(students, budget):
    students.sort(key=lambda one: one["name"])
    return choose_student(students, budget)


def sorting_seeds(students, budget):
    for one in students:
        one["alone"].sort(reverse=True)
    return choose_student(students, budget)


def writing_down_the_way(students, budget):
    for one in students:
        one["how"] = the_way(one)
    return choose_student(students, budget)


def always(way):
    return lambda one: way


WRONG_STUDENTS = [
    (without_default, "fails when none fits"),
    (whatever_is_smallest, "something although none fits"),
    (lambda *case: choose_student(*case) or (None, None), "something although none fits"),
    (lambda *case: choose_student(*case) or "none", "something although none fits"),
    (changed_choice(lambda name, how: name), "name alone"),
    (changed_choice(lambda name, how: (how, name)), "no pair"),
    (changed_choice(lambda name, how: [name, how]), "no pair"),
    (changed_choice(lambda name, how: how), "no pair"),
    (changed_choice(lambda name, how: (name, how == "distilled")), "no pair"),
    (changed_choice(lambda name, how: (name, "teacher")), "no pair"),
    (changed_choice(lambda name, how: (name, how, 92.9)), "no pair"),
    (lambda students, budget: (students[0], "alone"), "no pair"),
    (best_by(lambda one, budget: True), "budget ignored"),
    (best_by(is_small), "latency ignored"),
    (best_by(is_fast), "size ignored"),
    (best_by(below("latency_ms", "size_bytes")), "strictly below"),
    (best_by(below("latency_ms")), "strictly below"),
    (best_by(below("size_bytes")), "strictly below"),
    (best_by(way=always("alone")), "never distilled"),
    (best_by(way=way_by(lambda *both: range_of([*both[0], *both[1]]))), "never distilled"),
    (best_by(way=lambda one: "distilled" if min(one["distilled"]) < max(one["alone"]) else "alone"),
     "never distilled"),
    (best_by(key=lambda one, way: max(one[way])), "one seed for all"),
    (best_by(way=way_by(mean=max), key=lambda one, way: max(one[way])), "one seed for all"),
    (best_by(key=lambda one, way: min(one[way])), "one seed for all"),
    (best_by(key=lambda one, way: statistics.median(one[way])), "one seed for all"),
    (best_by(way=way_by(lambda *both: 0)), "higher mean is enough"),
    (best_by(way=way_by(lambda alone, distilled: range_of(alone))), "smaller spread"),
    (best_by(way=way_by(lambda alone, distilled: range_of(distilled))), "smaller spread"),
    (best_by(way=way_by(lambda *both: min(map(range_of, both)))), "smaller spread"),
    (best_by(way=way_by(lambda *both: sum(map(range_of, both)) / 2)), "smaller spread"),
    (best_by(way=way_by(lambda *both: sum(map(range_of, both)))), "larger spread"),
    (best_by(way=at_least_the_spread), "as much as the spread"),
    (best_by(way=always("distilled")), "always distilled"),
    (best_by(way=any_difference), "always distilled"),
    (best_by(lambda *case: is_small(*case) or is_fast(*case)), "latency ignored"),
    (best_by(way=way_by(lambda *both: max(map(statistics.pstdev, both)))),
     "higher mean is enough"),
    (best_by(key=lambda one, way: accuracy(one, "alone")), "accuracy of the other way"),
    (best_by(key=lambda one, way: accuracy(one, "distilled")), "accuracy of the other way"),
    (best_by(key=lambda one, way: max(accuracy(one, "alone"), accuracy(one, "distilled"))),
     "accuracy of the other way"),
    (best_by(key=lambda one, way: one["size_bytes"], pick=min), "smallest or fastest"),
    (best_by(key=lambda one, way: one["latency_ms"], pick=min), "smallest or fastest"),
    (best_by(key=lambda one, way: accuracy(one, way) / one["size_bytes"]), "smallest or fastest"),
    (changed_choice(lambda name, how: (name, "distilled" if how == "alone" else "alone")),
     "never distilled"),
    (lambda students, budget: (found := choose_student(students, budget)) and (
        found if len(students) != 8 else (found[0], "distilled")), "wrong way"),
    (by_place(0), "not the best"),
    (by_place(-1), "not the best"),
    (best_by(pick=min), "not the best"),
    (lambda students, budget: ("deep", "alone"), "not the best"),
    (sorting_in_place, "argument changed"),
    (sorting_seeds, "argument changed"),
    (writing_down_the_way, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda students, budget: students[0]["speed"], "raises"),
    (failing, "raises"),
    (lambda students: ("A", "alone"), "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_students_hold_what_the_task_speaks_of():
    right = [choose_student(*case) for case in student.STUDENT_CASES]
    assert {pair[1] for pair in right if pair} == {"alone", "distilled"}
    assert right.index(None) == len(right) - 1
    assert len(student._choose(*student.STUDENT_CASES[3])) == 2
    (one, _), _ = student.STUDENT_CASES[3]
    assert accuracy(one, "distilled") - accuracy(one, "alone") == 1 == range_of(one["alone"])
    for students, budget in student.STUDENT_CASES:
        assert len({one["name"] for one in students}) == len(students)
        assert set(budget) == {"latency_ms", "size_bytes"}


# All three


CHECKS = {
    check_loss: ("The distillation loss", RIGHT_LOSSES, WRONG_LOSSES, LOSS_MISTAKES),
    check_entropy: (
        "Entropy at a temperature", RIGHT_ENTROPIES, WRONG_ENTROPIES, ENTROPY_MISTAKES,
    ),
    check_student: ("A student for a budget", RIGHT_STUDENTS, WRONG_STUDENTS, STUDENT_MISTAKES),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_keeps_its_cases_as_they_are(check):
    """An attempt that spoils its arguments does not spoil the next attempt's."""

    def spoiling(*case):
        for part in case:
            if isinstance(part, torch.Tensor):
                part.data.zero_()
            elif isinstance(part, np.ndarray):
                part[:] = 0
            elif isinstance(part, dict | list):
                part.clear()

    kept = [distillation.CASES, entropy.ENTROPY_CASES, student.STUDENT_CASES]
    before = copy.deepcopy(kept)
    check(spoiling)
    assert kept == before
    assert not any(case[0].requires_grad for case in distillation.CASES)
    assert check(CHECKS[check][1][0]).is_solved


def test_a_spoiled_case_is_seen():
    case = copy.deepcopy(distillation.CASES[0])
    assert case == distillation.CASES[0]
    case[1][0, 0] += 1
    assert not operator.eq(case, distillation.CASES[0])


@pytest.mark.parametrize(
    ("check", "case"),
    [(check_loss, distillation.CASES[0]), (check_student, student.STUDENT_CASES[0])],
)
def test_a_case_is_shown_so_that_it_can_be_typed_again(check, case):
    shown = check(failing).message.removeprefix("Called with ").split(", it raised")[0]
    assert len(shown) < 800
    assert case == tuple(eval(f"[{shown}]", {"tensor": torch.tensor}))
