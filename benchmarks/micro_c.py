"""A network as one C file: is it exact, how accurate, how large, and how quick beside ONNX Runtime?

    .venv/bin/python benchmarks/micro_c.py [--students NAME ...] [--images 1000] [--limit 20]

For each student: the C file's logits against the reference in NumPy, at three levels of
optimisation; accuracy on the whole test split; flash and RAM counted from the object file; the time
of one image, in turns, on one thread. With gcc-arm-none-eabi installed also the flash on a
Cortex-M4, and with qemu-user the logits there and how many instructions an image takes.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from course_utils import datasets, distill, machine, measure, micro, quantize, runtimes
from course_utils.datasets import Dataset
from course_utils.runtimes import Runner
from course_utils.tables import Table

STUDENTS = ("full_ds-cnn_w40_taught_seed0", "full_ds-cnn_w32_taught_seed0")
LEVELS = {
    "-O0": (("-O0",), 1, 1),
    "-Os": (("-Os",), 1, 1),
    "-O3": (("-O3", "-march=native"), 1, 1),
    "-O3, rows of 32": (("-O3", "-march=native"), 32, 1),
    "-O3, rows of 64": (("-O3", "-march=native"), 64, 1),
    "-O3, rows of 8, 16 bits": (("-O3", "-march=native"), 8, 2),
    "-O3, rows of 64, 16 bits": (("-O3", "-march=native"), 64, 2),
}
CHIP = ("-mcpu=cortex-m4", "-mthumb")
ARM_COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-arm"
CHIP_LEVELS = ("-Os", "-O2", "-O3")
CHIP_IMAGES = 20
NAME = "student"

# A program without a library: classifies images from its input until there are no more.
PROGRAM = """
#include <stdint.h>
int student_classify(const uint8_t *pixels, int32_t *logits);
void *memset(void *to, int value, unsigned count)
{
    for (char *at = to; count--; at++) *at = (char)value;
    return to;
}
void *memcpy(void *to, const void *from, unsigned count)
{
    const char *source = from;
    for (char *at = to; count--; at++) *at = *source++;
    return to;
}
static int call(int number, int first, const void *second, int third)
{
    register int r0 __asm__("r0") = first, r2 __asm__("r2") = third, r7 __asm__("r7") = number;
    register const void *r1 __asm__("r1") = second;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r7) : "memory");
    return r0;
}
void run(void)
{
    static uint8_t pixels[IMAGE_BYTES];
    static int32_t logits[CLASSES];
    while (call(3, 0, pixels, sizeof pixels) == sizeof pixels) {
        student_classify(pixels, logits);
        call(4, 1, logits, sizeof logits);
    }
    call(1, 0, 0, 0);
}
__attribute__((naked)) void _start(void) { __asm__ volatile("bl run"); }
"""

# A plugin for QEMU 7: counts the instructions that are executed, block by block.
COUNTER = """
#include <stdint.h>
#include <stdio.h>
typedef uint64_t plugin;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin, void (*)(plugin, void *));
void qemu_plugin_register_vcpu_tb_exec_inline(void *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin, void (*)(plugin, void *), void *);
size_t qemu_plugin_tb_n_insns(const void *);
int qemu_plugin_version = 1;
static uint64_t count;
static void see(plugin self, void *block)
{
    (void)self;
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &count, qemu_plugin_tb_n_insns(block));
}
static void tell(plugin self, void *nothing)
{
    (void)self, (void)nothing;
    fprintf(stderr, "%llu\\n", (unsigned long long)count);
}
int qemu_plugin_install(plugin self, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(self, see);
    qemu_plugin_register_atexit_cb(self, tell, 0);
    return 0;
}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--students", nargs="*", default=STUDENTS)
    arguments.add_argument("--images", type=int, default=1000, help="to compare logits on")
    arguments.add_argument("--limit", type=float, default=20.0, help="seconds of timing")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    print(machine.describe())
    print(subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.split("\n")[0])
    fashion = datasets.load_fashion()
    students = distill.load_students("students_fashion")
    for name in chosen.students:
        print(f"\n{name}")
        tell(students[name].model, fashion, chosen.images, chosen.limit)


def tell(model: torch.nn.Module, fashion: Dataset, count: int, limit_s: float) -> None:
    folded = quantize.fold_batch_norms(model)
    calibration = fashion.calibration.images
    network = micro.quantize_to_integers(folded, calibration[:200])
    images = fashion.test.images[:count]
    expected = network.run(images)
    runners = {
        "ONNX Runtime, int8": runtimes.build(quantize.quantize_weights(folded, 8), calibration),
        "ONNX Runtime, fp32": runtimes.build(folded, calibration),
    }
    for level, (flags, lanes, wide) in LEVELS.items():
        source = micro.write_c(network, NAME, lanes=lanes, weight_bytes=wide)
        logits = micro.load_c(network, source, NAME, flags)(images)
        same = int((logits == expected).all(axis=1).sum())
        print(f"C {level}: {same} of {count} images have the reference's logits, bit for bit")
        runners[f"C {level}"] = micro.build_c(
            network, name=NAME, lanes=lanes, weight_bytes=wide, flags=flags
        )
    print(tabulate_accuracy(runners, fashion))
    print(tabulate_sizes(network))
    timed = {name: runner for name, runner in runners.items() if name != "C -O0"}
    print(measure.compare(*timed.values(), images=images[:1], names=[*timed], limit_s=limit_s))
    if shutil.which(ARM_COMPILER):
        print(tabulate_chip(network, images[:CHIP_IMAGES]))
    else:
        print(f"No {ARM_COMPILER} here: `sudo apt install gcc-arm-none-eabi qemu-user`.")


def tabulate_accuracy(runners: dict[str, Runner], fashion: Dataset) -> Table:
    rows = []
    for name in ("ONNX Runtime, fp32", "ONNX Runtime, int8", "C -O3, rows of 64"):
        found = measure.measure_accuracy(runners[name], fashion.test)
        rows.append([name, f"{found.value:.2f} % {found.note}"])
    return Table(["", "accuracy"], rows, [])


def tabulate_sizes(network: micro.IntegerNetwork) -> Table:
    plan = micro.plan_memory(network)
    rows = [["the plan", f"{plan.weight_bytes:,}", "–", f"{plan.ram_bytes:,}"]]
    for level, lanes in (("-Os", 1), ("-O3", 1), ("-O3", 64)):
        size = micro.measure_object(micro.write_c(network, NAME, lanes=lanes), (level,))
        flash, code, ram = size.flash_bytes, size.code_bytes, size.ram_bytes
        rows.append([f"C {level}, rows of {lanes}", f"{flash:,}", f"{code:,}", f"{ram:,}"])
    return Table(["bytes, this processor", "flash", "of it code", "RAM"], rows, [])


def tabulate_chip(network: micro.IntegerNetwork, images: np.ndarray) -> Table:
    source = micro.write_c(network, NAME)
    rows = []
    for level in CHIP_LEVELS:
        size = micro.measure_object(source, (*CHIP, level), compiler=ARM_COMPILER)
        told = emulate(network, source, level, images) if shutil.which(EMULATOR) else ["–", "–"]
        rows.append([level, f"{size.flash_bytes:,}", f"{size.ram_bytes:,}", *told])
    head = ["Cortex-M4", "flash", "RAM", "logits as the reference's", "instructions an image"]
    return Table(head, rows, [])


def emulate(
    network: micro.IntegerNetwork, source: str, level: str, images: np.ndarray
) -> list[str]:
    """Return how many images have the right logits on the chip, and its instructions an image."""
    pixels = micro.to_pixels(images, network.image_shape).transpose(0, 2, 3, 1)
    with tempfile.TemporaryDirectory() as folder:
        program, counter = Path(folder) / "program", Path(folder) / "counter.so"
        sizes = {"IMAGE_BYTES": pixels[0].size, "CLASSES": network.classes}
        defined = [f"-D{name}={value}" for name, value in sizes.items()]
        chip = [ARM_COMPILER, *CHIP, level, "-ffreestanding", "-nostdlib", *defined]
        build([*chip, "-x", "c", "-", "-lgcc", "-o", str(program)], source + PROGRAM)
        build(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(counter)], COUNTER)
        command = [EMULATOR, "-plugin", str(counter), str(program)]
        runs = [
            subprocess.run(command, input=given.tobytes(), capture_output=True)
            for given in (pixels, pixels[:0])
        ]
    if runs[0].returncode:  # another version of QEMU, perhaps
        return [f"{EMULATOR} failed: {runs[0].stderr.decode()[-100:]}", "–"]
    logits = np.frombuffer(runs[0].stdout, np.int32).reshape(len(images), -1)
    same = int((logits == network.run(images)).all(axis=1).sum())
    instructions = [int(run.stderr.split()[-1]) for run in runs]
    each = (instructions[0] - instructions[1]) / len(images)
    return [f"{same} of {len(images)}", f"{each:,.0f}"]


def build(command: list[str], source: str) -> None:
    subprocess.run(command, input=source, text=True, check=True)


if __name__ == "__main__":
    main()
