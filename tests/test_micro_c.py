"""The C file of a network: the same numbers bit for bit, and what can go wrong on the way."""

import ctypes
import dataclasses
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from course_utils import datasets, distill, measure, micro, models
from course_utils.micro import c_code, compiled
from course_utils.micro.arithmetic import requantize
from course_utils.runtimes import NoCompilerError

STUDENT = "full_ds-cnn_w40_taught_seed0"
IMAGES = 1000
LAYOUTS = [(1, 1), (64, 1), (8, 2), (64, 2)]  # lanes, bytes of a weight
BUILDS = [("-O0", 1, 1), ("-Os", 1, 1), *(("-O3", *layout) for layout in LAYOUTS)]
SANITIZERS = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")

MAIN = """
#include <stdio.h>
int main(void)
{
    static uint8_t pixels[784];
    static int32_t logits[10];
    while (fread(pixels, 1, 784, stdin) == 784) {
        student_classify(pixels, logits);
        fwrite(logits, 4, 10, stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def fashion() -> datasets.Dataset:
    return datasets.load_fashion()


@pytest.fixture(scope="module")
def student(fashion) -> micro.IntegerNetwork:
    model = distill.load_students("students_fashion")[STUDENT].model
    return micro.quantize_to_integers(model, fashion.calibration.images[:200])


@pytest.fixture(scope="module")
def expected(student, fashion) -> np.ndarray:
    return student.run(fashion.test.images[:IMAGES])


@pytest.fixture(scope="module")
def tiny(tiny_resnet, images) -> micro.IntegerNetwork:
    return micro.quantize_to_integers(tiny_resnet, images)


# Bit for bit


@pytest.mark.parametrize(("level", "lanes", "wide"), BUILDS)
def test_the_student_is_bit_exact_on_a_thousand_images(
    level, lanes, wide, student, fashion, expected
):
    source = micro.write_c(student, "student", lanes=lanes, weight_bytes=wide)
    run = micro.load_c(student, source, "student", [level, "-march=native"])
    assert np.array_equal(run(fashion.test.images[:IMAGES]), expected)


@pytest.mark.parametrize(("lanes", "wide"), LAYOUTS)
def test_sanitizers_find_nothing_and_change_nothing(
    lanes, wide, student, fashion, expected, tmp_path
):
    program = tmp_path / "program"
    source = micro.write_c(student, "student", lanes=lanes, weight_bytes=wide) + MAIN
    compiled.compile_c(source, program, ["-O1", *SANITIZERS])
    pixels = micro.to_pixels(fashion.test.images[:40], student.image_shape)
    done = subprocess.run([program], input=pixels.tobytes(), capture_output=True)
    assert done.stderr.decode() == ""
    assert done.returncode == 0
    assert np.array_equal(np.frombuffer(done.stdout, np.int32).reshape(40, 10), expected[:40])


def test_a_resnet_and_its_optimised_file_agree(tiny, images):
    for lanes, wide in (*LAYOUTS, (32, 1)):
        source = micro.write_c(tiny, "tiny", lanes=lanes, weight_bytes=wide)
        run = micro.load_c(tiny, source, "tiny")
        assert np.array_equal(run(images), tiny.run(images))


def test_the_function_returns_the_class(tiny, images, tmp_path):
    library = tmp_path / "tiny.so"
    compiled.compile_c(micro.write_c(tiny, "tiny"), library, ["-O1", "-shared", "-fPIC"])
    classify = ctypes.CDLL(str(library)).tiny_classify
    pixels = micro.to_pixels(images, tiny.image_shape)
    logits = np.empty(10, np.int32)
    found = [
        classify(ctypes.c_void_p(one.ctypes.data), ctypes.c_void_p(logits.ctypes.data))
        for one in pixels
    ]
    assert found == tiny.run(images).argmax(axis=1).tolist()


@pytest.fixture(scope="module")
def store_in_c(tmp_path_factory):
    """Return the kernel that requantizes in 32 bits, alone."""
    parts = c_code.read_kernels()
    source = "\n".join(
        ["#include <stdint.h>", "#define LANES 1", "typedef int8_t weight;",
         "static int32_t sums[1][1];"]
        + [parts[name] for name in ("saturate", "layer", "store")]
        + ["void try_one(const int32_t *value, const int32_t *multiplier, const uint8_t *shift,",
           "             int8_t *result);",
           "void try_one(const int32_t *value, const int32_t *multiplier, const uint8_t *shift,",
           "             int8_t *result)",
           "{ requantize_all(value, multiplier, shift, 100, 7, -100, result); (void)store; }"]
    )  # fmt: skip
    library = tmp_path_factory.mktemp("store") / "store.so"
    compiled.compile_c(source, library, ["-O1", "-ftrapv", "-shared", "-fPIC"])
    return ctypes.CDLL(str(library)).try_one


@pytest.mark.parametrize("largest", [2**10, 2**20, 2**31 - 1])
def test_the_kernel_requantizes_in_32_bits_what_python_does_in_64(largest, store_in_c):
    random = np.random.default_rng(largest)
    sums = random.integers(-largest - 1, largest + 1, 100).astype(np.int32)
    sums[:2] = -largest - 1, largest
    multipliers = random.integers(2**30, 2**31, 100).astype(np.int32)
    shifts = random.integers(33, 63, 100).astype(np.uint8)
    found, less = np.empty(100, np.int8), shifts - np.uint8(32)
    store_in_c(*(ctypes.c_void_p(given.ctypes.data) for given in (sums, multipliers, less, found)))
    exact = requantize(sums, multipliers, shifts.astype(np.int64)) + 7
    assert np.array_equal(found, np.clip(exact, -100, 127))


# The file


@pytest.mark.parametrize(("lanes", "wide"), LAYOUTS)
def test_the_file_needs_nothing_but_whole_numbers(lanes, wide, student):
    source = micro.write_c(student, "student", lanes=lanes, weight_bytes=wide)
    assert re.findall(r"#include.*", source) == ["#include <stdint.h>"]
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.S)
    assert not re.search(r"\b(float|double|malloc|free|memcpy|printf)\b|\d\.\d", code)
    assert max(map(len, source.splitlines())) <= 110


@pytest.mark.parametrize(("lanes", "wide"), LAYOUTS)
@pytest.mark.parametrize("name", ["student", "tiny"])
def test_it_compiles_pedantically_without_a_warning(name, lanes, wide, request, tmp_path):
    network = request.getfixturevalue(name)
    source = micro.write_c(network, name, lanes=lanes, weight_bytes=wide)
    strict = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wshadow", "-Wundef", "-Wvla"]
    done = subprocess.run(["cc", *strict, "-c", "-o", tmp_path / "one.o", "-x", "c", "-"],
                          input=source, capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_ram_and_flash_are_what_the_plan_says(student):
    plan = micro.check_budget(student)  # 64 KiB of weights, 32 KiB of activations
    found = micro.measure_object(micro.write_c(student, "student"))
    assert plan.ram_bytes <= found.ram_bytes <= plan.ram_bytes + 64  # between buffers lie gaps
    assert plan.weight_bytes < found.flash_bytes < plan.weight_bytes + 8000
    assert found.code_bytes < 6000


def test_filled_rows_cost_memory(student):
    small, fast = (micro.measure_object(micro.write_c(student, "s", lanes=n)) for n in (1, 64))
    assert fast.flash_bytes > 1.3 * small.flash_bytes
    assert fast.ram_bytes > small.ram_bytes


def test_weights_of_two_bytes_cost_as_many(student):
    plan = micro.check_budget(student)
    narrow, wide = (
        micro.measure_object(micro.write_c(student, "s", lanes=8, weight_bytes=size))
        for size in (1, 2)
    )
    weights = sum(one.weight.size for one in student.operations if hasattr(one, "weight"))
    assert weights < plan.weight_bytes
    assert wide.flash_bytes > narrow.flash_bytes + 0.95 * weights
    assert wide.ram_bytes > narrow.ram_bytes  # what meets them is as wide


@pytest.mark.parametrize("name", ["", "2nd", "my model", "naïve", "a-b", "a;b"])
def test_a_name_that_c_does_not_know_is_refused(name, tiny):
    with pytest.raises(ValueError, match="A name in C"):
        micro.write_c(tiny, name)


@pytest.mark.parametrize("lanes", [0, -1, 65])
def test_lanes_that_no_register_has_are_refused(lanes, tiny):
    with pytest.raises(ValueError, match=f"lanes={lanes}"):
        micro.write_c(tiny, "tiny", lanes=lanes)
    with pytest.raises(ValueError, match=f"lanes={lanes}"):
        micro.build_c(tiny, lanes=lanes)


def test_a_layer_too_large_for_the_fields_is_refused(tiny):
    first, *others = tiny.tensors
    huge = micro.IntegerNetwork((first._replace(shape=(70_000, 1, 1)), *others), tiny.operations)
    with pytest.raises(ValueError, match="too large for a microcontroller"):
        micro.write_c(huge, "huge")


def test_names_of_layers_cannot_break_the_file(tiny_mlp, images):
    network = micro.quantize_to_integers(tiny_mlp, images)
    renamed = [dataclasses.replace(one, name="int */ 1.ö") for one in network.operations]
    network = micro.IntegerNetwork(network.tensors, tuple(renamed))
    run = micro.load_c(network, micro.write_c(network, "mlp"), "mlp", ["-O1"])
    assert np.array_equal(run(images), network.run(images))


# The runner


def test_a_runner_gives_logits_and_says_what_it_is(tiny, images):
    runner = micro.build_c(tiny, name="tiny")
    logits = runner(images)
    assert logits.dtype == np.float32
    assert np.array_equal(
        logits, tiny.run(images).astype(np.float32) * np.float32(tiny.logit_scale)
    )
    assert (runner.runtime, runner.kernel) == ("C, compiled here", "int8")
    assert runner.remark.startswith("-O3")
    assert "rows filled up to" in runner.remark
    assert runner.image_shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("lanes", "wide", "told"),
    [
        (1, 1, ""),
        (1, 2, ", each in 16 bits"),
        (8, 1, ", rows filled up to 8 weights"),
        (8, 2, ", rows filled up to 8 weights, each in 16 bits"),
    ],
)
def test_a_remark_tells_how_weights_lie(lanes, wide, told, tiny):
    runner = micro.build_c(tiny, lanes=lanes, weight_bytes=wide, flags=["-O1"])
    assert runner.remark == "-O1" + told


def test_a_runner_enters_the_tables_like_any_other(tiny, images):
    runner = micro.build_c(tiny)
    labels = tiny.run(images).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 10
    assert measure.measure_accuracy(runner, datasets.Split(images, labels)).value == 75
    assert measure.compare(runner, images=images[:1], rounds=2).latency(0).value > 0


@pytest.mark.parametrize("wide", [0, 3, 4])
def test_weights_are_of_one_byte_or_two(wide, tiny):
    with pytest.raises(ValueError, match="1 or 2 bytes"):
        micro.write_c(tiny, "tiny", weight_bytes=wide)
    with pytest.raises(ValueError, match=f"1 or 2 bytes, not in {wide}"):
        micro.build_c(tiny, weight_bytes=wide)


def test_threads_wait_for_each_other(student, fashion, expected):
    run = micro.load_c(student, micro.write_c(student, "student", lanes=64), "student")
    parts = np.split(fashion.test.images[:200], 50)
    with ThreadPoolExecutor(8) as threads:
        found = np.concatenate(list(threads.map(run, parts)))
    assert np.array_equal(found, expected[:200])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images: images[:, :, :11],
        lambda images: images.astype(np.float64),
        lambda images: images[0],
        lambda images: images * 255,
        lambda images: images - 1,
    ],
)
def test_images_that_do_not_fit_are_refused(spoil, tiny, images):
    runner = micro.build_c(tiny, flags=["-O1"])
    with pytest.raises(ValueError, match=r"takes|Pixels"):
        runner(spoil(images))
    with pytest.raises(ValueError, match=r"takes|Pixels"):
        tiny.run(spoil(images))


def test_no_images_give_no_logits(tiny):
    run = micro.load_c(tiny, micro.write_c(tiny, "tiny"), "tiny", ["-O1"])
    nothing = np.empty((0, 1, 12, 12), np.float32)
    assert run(nothing).shape == tiny.run(nothing).shape == (0, 10)


# The compiler


def place_compiler(folder, monkeypatch, script: str) -> None:
    """Let `cc` be a shell script, and no other compiler be found."""
    file = folder / "cc"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_a_compiler_it_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match=r"no C compiler here.*apt install gcc"):
        micro.build_c(tiny)


@pytest.mark.parametrize("script", ["echo 'one.c:1: error: no licence' >&2; exit 1", "exec /none"])
def test_a_compiler_that_does_not_work_is_told_of(script, tiny, tmp_path, monkeypatch):
    place_compiler(tmp_path, monkeypatch, script)
    with pytest.raises(NoCompilerError, match=r"cc .*failed.*apt install gcc") as caught:
        micro.build_c(tiny)
    assert len(str(caught.value)) < 700
    if "licence" in script:
        assert "no licence" in str(caught.value)


def test_a_file_that_is_no_program_is_no_compiler(tiny, tmp_path, monkeypatch):
    place_compiler(tmp_path, monkeypatch, "")
    (tmp_path / "cc").write_bytes(b"\x00\x01")
    with pytest.raises(NoCompilerError, match="does not work"):
        micro.build_c(tiny)


def test_a_compiler_that_does_not_know_this_processor_is_used_all_the_same(
    tiny, images, tmp_path, monkeypatch
):
    path = "PATH=/usr/local/bin:/usr/bin:/bin"
    script = f'case "$*" in *march*) echo "error: march?" >&2; exit 1;; esac\n{path} exec cc "$@"'
    place_compiler(tmp_path, monkeypatch, script)
    runner = micro.build_c(tiny)
    assert np.array_equal(runner(images).argmax(axis=1), tiny.run(images).argmax(axis=1))
    assert runner.remark.startswith("-O3, rows")


def test_a_model_over_the_budget_is_refused(fashion):
    lenet = models.load_pretrained("lenet_300_100_fashion")
    network = micro.quantize_to_integers(lenet, fashion.calibration.images[:50])
    with pytest.raises(micro.OverBudgetError, match=r"its weights take 269,890 bytes"):
        micro.check_budget(network)
