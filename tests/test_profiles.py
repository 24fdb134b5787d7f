"""Profiles: the parts of a call have names, and add up to what our own clock sees."""

import numpy as np
import pytest
import torch

from course_utils import quantize, runtimes
from course_utils.runtimes import onnx_profile, profiles
from course_utils.runtimes.onnx_profile import ProfiledCall
from course_utils.runtimes.profiles import CallProfile


@pytest.fixture(scope="module")
def onnx_runner(tiny_convnet, images) -> runtimes.Runner:
    return runtimes.build(tiny_convnet, images)


@pytest.fixture(scope="module")
def eager(tiny_convnet, images) -> runtimes.Runner:
    return runtimes.build_eager(tiny_convnet, images)


@pytest.fixture(scope="module", params=["onnx_runner", "eager"])
def runner(request) -> runtimes.Runner:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("bits", [32, 5])
@pytest.mark.parametrize("name", ["tiny_convnet", "tiny_mlp"])
def test_the_profile_has_a_time_for_each_kind_of_operator(request, images, name, bits):
    model = quantize.quantize_weights(request.getfixturevalue(name), bits)
    runner = runtimes.build(model, images)
    times = runtimes.profile_operators(runner, images[:1], runs=3)
    assert times.keys() == runner.operators.keys()
    assert sum(times.values()) > 0  # in whole microseconds a small one takes none
    assert list(times.values()) == sorted(times.values(), reverse=True)


def test_each_node_has_a_time_too(onnx_runner, images):
    profile = runtimes.profile_call(onnx_runner, images[:1], runs=3)
    assert len(profile.nodes_ms) == sum(onnx_runner.operators.values())
    assert sum(profile.nodes_ms.values()) == pytest.approx(sum(profile.operators_ms.values()))


def test_pytorch_names_its_own_operators(eager, images):
    times = runtimes.profile_operators(eager, images[:1], runs=3)
    convolutions = {name for name in times if "conv" in name}
    assert convolutions
    assert {"aten::linear", "aten::addmm", "aten::relu"} <= times.keys()
    assert all(name.startswith("aten::") for name in times)
    assert min(times.values()) >= 0
    assert sum(times.values()) > 0
    assert list(times.values()) == sorted(times.values(), reverse=True)
    assert runtimes.profile_call(eager, images[:1], runs=2).nodes_ms == {}


def test_many_images_take_longer(runner, images):
    one, all_of_them = (
        sum(runtimes.profile_operators(runner, batch, runs=5).values())
        for batch in (images[:1], np.tile(images, (5, 1, 1, 1)))
    )
    assert all_of_them > 3 * one


@pytest.mark.parametrize("runs", [1, 5, 23])
def test_the_parts_are_the_whole(runner, images, runs):
    profile = runtimes.profile_call(runner, images[:2], runs=runs)
    operators_ms = sum(profile.operators_ms.values())
    assert profile.outside_ms > 0
    assert operators_ms + profile.outside_ms == pytest.approx(profile.profiled_call_ms)
    assert operators_ms <= profile.runtime_ms <= profile.profiled_call_ms
    assert profile.slowdown == profile.profiled_call_ms / profile.call_ms


def test_the_runtime_s_clock_agrees_with_ours_where_a_call_is_long(runner, images):
    """Beside it there are only some microseconds of Python: a share of a hundredth here."""
    profile = runtimes.profile_call(runner, np.tile(images, (20, 1, 1, 1)), runs=5)
    assert profile.runtime_ms == pytest.approx(profile.profiled_call_ms, rel=0.1)


def test_the_bars_add_up_to_a_call():
    times = {f"operator {number}": float(10 - number) for number in range(10)}
    profile = CallProfile(times, {}, 60.0, 62.0, 50.0)
    assert profile.bars(most=3) == {
        "operator 0": 10, "operator 1": 9, "operator 2": 8,
        "7 other operators": 28, "outside of operators": 7,
    }  # fmt: skip
    assert list(profile.bars(10)) == [*times, "outside of operators"]
    for most in (0, 1, 8, 20):
        assert sum(profile.bars(most).values()) == 62


def test_the_operators_of_a_compiled_graph_lose_their_numbers(images):
    def run(batch):
        with (
            torch.profiler.record_function("Torch-Compiled Region: 3/0"),
            torch.profiler.record_function("## Call CompiledFxGraph f2k4 ##"),
        ):
            return torch.from_numpy(batch).flatten(1).clone().numpy()

    compiled = runtimes.Runner(run, "PyTorch compiled", "fp32", "", b"", images.shape[1:])
    times = runtimes.profile_operators(compiled, images, runs=2)
    assert {"Torch-Compiled Region", "compiled graph", "aten::clone"} <= times.keys()


def test_a_few_slow_calls_move_nothing(onnx_runner, images, monkeypatch):
    """Another program may take the processor in the middle of a call."""
    durations = iter([5.0, 1.0, 900.0, 3.0, 2.0, 4.0, 6.0, 1000.0])

    def profile_one(runner, images, count):
        return [
            ProfiledCall({"a": ms / 2, "b": ms / 4}, {"a": "X", "b": "X"}, ms, ms)
            for ms in (next(durations) for _ in range(count))
        ]

    monkeypatch.setattr(profiles, "_profile_onnx", profile_one)
    profile = runtimes.profile_call(onnx_runner, images, runs=8)
    assert profile.profiled_call_ms == (3 + 4 + 5 + 6) / 4
    assert profile.operators_ms == {"X": 0.75 * 4.5}


def test_the_profile_runs_with_the_runner_s_threads(tiny_mlp, images, monkeypatch):
    opened = []
    open_session = onnx_profile.open_session
    monkeypatch.setattr(
        onnx_profile, "open_session", lambda *a, **k: opened.append(k) or open_session(*a, **k)
    )
    runtimes.profile_call(runtimes.build(tiny_mlp, images, threads=2), images, runs=1)
    assert [settings["threads"] for settings in opened] == [2]


def test_a_runner_of_another_runtime_is_refused(make_runner, tiny_split):
    with pytest.raises(ValueError, match=r"ONNX Runtime.*PyTorch eager.*not one of planted"):
        runtimes.profile_operators(make_runner(), tiny_split.images)


def test_no_run_is_refused(runner, images):
    with pytest.raises(ValueError, match="runs=0"):
        runtimes.profile_call(runner, images, runs=0)


def test_other_images_are_named(runner, images):
    with pytest.raises(ValueError, match=r"it was given float32 of shape \(40, 1, 11, 12\)"):
        runtimes.profile_operators(runner, images[:, :, 1:])


def test_the_profiler_says_nothing(eager, images, capfd):
    runtimes.profile_operators(eager, images[:1], runs=1)
    assert capfd.readouterr() == ("", "")
