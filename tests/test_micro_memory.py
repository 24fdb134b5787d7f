"""Where activations lie, what a network needs, and what is over a budget."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils import micro
from course_utils.micro.integers import Addition, Operation, Tensor
from course_utils.models import DSCNN, MLP, ResNet8


@st.composite
def networks(draw) -> micro.IntegerNetwork:
    """Draw a graph of additions; the sizes of its tensors do not matter to the plan."""
    count = draw(st.integers(2, 9))
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
    tensors = [Tensor(draw(shapes), 1.0, 0) for _ in range(count)]
    operations: list[Operation] = []
    for output in range(1, count):
        earlier = st.integers(0, output - 1)
        inputs = (draw(earlier), draw(earlier))
        operations.append(Addition(f"add{output}", inputs, output, -128, (1, 1), 1))
    return micro.IntegerNetwork(tuple(tensors), tuple(operations))


def build(make, images: np.ndarray) -> micro.IntegerNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return micro.quantize_to_integers(make(), images)


NETWORKS = {
    "ds-cnn": lambda: DSCNN(width=8),
    "resnet": lambda: ResNet8(width=4),
    "mlp": lambda: MLP([144, 32, 10]),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, images) -> micro.IntegerNetwork:
    return build(NETWORKS[request.param], images)


def find_last_reader(network: micro.IntegerNetwork, number: int) -> int:
    """Return when a tensor is read for the last time; one that nobody reads is the answer."""
    readers = [place for place, one in enumerate(network.operations) if number in one.inputs]
    return max(readers, default=len(network.operations) - 1)


def assert_nothing_needed_is_overwritten(network: micro.IntegerNetwork, lanes: int) -> None:
    """Play the operations: each writes its output with its slack, and reads its inputs intact."""
    plan = micro.plan_memory(network, lanes)
    owner = np.full(plan.activation_bytes, -1)

    def write(number: int) -> None:
        begin = plan.offsets[number]
        end = begin + plan.sizes[number] + (lanes - 1 if plan.sizes[number] else 0)
        assert begin >= 0
        assert end <= len(owner)
        owner[begin:end] = number

    write(0)
    for operation in network.operations:
        write(operation.output)
        for number in operation.inputs:
            begin = plan.offsets[number]
            assert (owner[begin : begin + plan.sizes[number]] == number).all()


@given(networks(), st.sampled_from([1, 2, 64]))
def test_no_activation_is_overwritten_before_its_last_reader(network, lanes):
    assert_nothing_needed_is_overwritten(network, lanes)


@given(networks())
def test_a_plan_needs_no_less_than_is_held_at_once_and_no_more_than_all(network):
    plan = micro.plan_memory(network)
    assert max(plan.held_bytes) <= plan.activation_bytes <= sum(plan.sizes)
    for place, held in enumerate(plan.held_bytes):
        alive = [
            plan.sizes[number]
            for number in range(len(network.tensors))
            if plan.first[number] <= place <= find_last_reader(network, number)
        ]
        assert held == sum(alive)


@pytest.mark.parametrize("lanes", [1, 64])
def test_the_plans_of_real_networks_hold(network, lanes):
    assert_nothing_needed_is_overwritten(network, lanes)


def test_the_plans_of_real_networks_are_the_best_there_are(network):
    plan = micro.plan_memory(network)
    assert plan.activation_bytes == max(plan.held_bytes)


def test_bytes_are_counted_as_they_are(images):
    plan = micro.plan_memory(build(lambda: MLP([144, 32, 10]), images))
    assert plan.sizes == (144, 32, 0)  # the logits go where the caller wants them
    assert plan.weight_bytes == 144 * 32 + 32 * 10 + 9 * 42
    assert plan.activation_bytes == 144 + 32
    assert plan.scratch_bytes == 144 + 4 * 32
    assert plan.ram_bytes == 144 + 32 + 144 + 4 * 32


def test_a_network_within_the_budget_comes_back_with_its_plan(network):
    plan = micro.plan_memory(network)
    same = micro.check_budget(
        network, weight_bytes=plan.weight_bytes, activation_bytes=plan.ram_bytes
    )
    assert same == plan


@pytest.mark.parametrize("over", [{"weight_bytes"}, {"activation_bytes"},
                                  {"weight_bytes", "activation_bytes"}])  # fmt: skip
def test_what_is_over_the_budget_is_said(over, network):
    plan = micro.plan_memory(network)
    needed = {"weight_bytes": plan.weight_bytes, "activation_bytes": plan.ram_bytes}
    budget = {limit: count - (limit in over) for limit, count in needed.items()}
    with pytest.raises(micro.OverBudgetError) as caught:
        micro.check_budget(network, **budget)
    told = str(caught.value)
    for limit, count in needed.items():
        what = "weights" if limit == "weight_bytes" else "activations"
        said = f"its {what} take {count:,} bytes, 1 more than the {count - 1:,} of the budget"
        assert (said in told) == (limit in over)
    busiest = network.operations[int(np.argmax(plan.held_bytes))].name
    assert (repr(busiest) in told) == ("activation_bytes" in over)


def test_the_budget_of_a_small_chip_is_the_default(images):
    micro.check_budget(build(lambda: DSCNN(width=8), images))
    with pytest.raises(micro.OverBudgetError, match="65,536"):
        micro.check_budget(build(lambda: MLP([144, 500, 10]), images))
