"""Record what int8 sums of 16 bits do to the course's networks: ``int8_saturation.json``.

    nice python data/make/saturation.py FOLDER

Processors without VNNI sum two products of bytes in 16 bits and cut the sum off at 32,767.
On a processor with VNNI this is seen through QEMU (in Debian: the package ``qemu-user``, 7.2 or
newer; ignore its warnings of missing features), which hides VNNI, so that ONNX Runtime takes
its AVX2 kernels. Emulated arithmetic is exact, emulated times mean nothing.

The script writes graphs and images to FOLDER and calls itself twice, natively and under QEMU, to
run them on one thread (``--run``, which needs NumPy and ONNX Runtime alone); then it compares the
logits. Emulation is slow: 3,000 images take about 20 minutes. Logits that FOLDER already holds
are kept, so a broken run goes on where it broke off; use an empty FOLDER for other settings
or after a change of the quantization.
"""

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime

RECORD = Path(__file__).parent.parent / "recorded" / "int8_saturation.json"
FILES_OF = {  # of signed activations, ONNX Runtime fuses the matrix products, few convolutions
    "resnet8_w32_fashion": ("fp32", "u8s8", "u8s7"),
    "resnet8_w16_fashion": ("fp32", "u8s8", "u8s7"),
    "mlp_1024_fashion": ("fp32", "u8s8", "u8s7", "s8s8"),
}
CPU = "Haswell-v4"
EMULATOR = ["qemu-x86_64", "-cpu", CPU]
KINDS = {  # of file: (bits of a weight, type of an activation)
    "fp32": ("fp32", "fp32"),
    "u8s8": ("8 bits", "uint8"),
    "u8s7": ("7 bits", "uint8"),
    "s8s8": ("8 bits", "int8"),
}
# Floats take QEMU 30 to 60 times as long as bytes. They are not in question: so many images
# show whether they agree with the native ones.
FLOAT_IMAGES = 16
BATCH = 50
PROBE_PRODUCTS = 64
DEFINITIONS = {
    "weights": "8 bits: -127 to 127; 7 bits: -63 to 63, so that no sum of two can overflow",
    "optimisations": "on: fused int8 kernels; off (ORT_DISABLE_ALL): dequantize, then fp32",
    "relative_logit_error": "||logits - fp32 logits|| / ||fp32 logits||; Frobenius norms over"
    " all images, the fp32 model run natively",
    "other_class_than_fp32": "share of images",
    "difference_from_native": "||emulated - native logits|| / ||native logits||, same file",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for graphs and logits: about 30 MB")
    parser.add_argument("--images", type=int, default=3000, help="how many of the test images")
    parser.add_argument("--run", choices=["native", "emulated"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.run:
        run(folder, arguments.run)
        return
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, arguments.images)
    again = [sys.executable, __file__, str(folder), "--run"]
    subprocess.run([*again, "native"], check=True)
    subprocess.run([*EMULATOR, *again, "emulated"], check=True)
    RECORD.parent.mkdir(exist_ok=True)
    head, rows = describe_run(folder), compare(folder)
    lines = ",\n  ".join(json.dumps(row) for row in rows)  # one for each row, to be readable
    RECORD.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n')
    print(f"{RECORD.name} is written")


def prepare(folder: Path, count: int) -> None:
    """Write the images, the graphs of each model, and one whose sums must overflow."""
    import onnx  # here and below: the emulated process has no need of it

    from course_utils import datasets, models, quantize, runtimes
    from course_utils.runtimes.export import unpack

    fashion = datasets.load_fashion()
    test, calibration = fashion.test.first(count), fashion.calibration.images
    np.savez(folder / "test.npz", images=test.images, labels=test.labels)
    for name, files in FILES_OF.items():
        model = quantize.fold_batch_norms(models.load_pretrained(name))
        rounded = quantize.quantize_weights(model, 8)
        graphs = {
            "fp32": runtimes.build(model, calibration),
            "u8s8": runtimes.build(rounded, calibration, reduce_range=False),
            "u8s7": runtimes.build(rounded, calibration, reduce_range=True),
        }
        for file, runner in graphs.items():
            onnx.save(unpack(runner.artefact), folder / f"{name}.{file}.onnx")
        if "s8s8" in files:
            signed = with_signed_activations(unpack(graphs["u8s8"].artefact))
            onnx.save(signed, folder / f"{name}.s8s8.onnx")
    onnx.save(make_probe(), folder / "probe.onnx")


def with_signed_activations(graph):
    """Return the graph with activations of -128 to 127 for 0 to 255: the same real numbers."""
    import onnx

    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:  # zero points; no other byte is unsigned
            unsigned = onnx.numpy_helper.to_array(tensor).astype(np.int16)
            signed = (unsigned - 128).astype(np.int8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(signed, tensor.name))
    return graph


def make_probe():
    """Return a graph that multiplies a row of bytes with columns of 127."""
    from onnx import TensorProto, helper, numpy_helper

    columns = numpy_helper.from_array(np.full((PROBE_PRODUCTS, 16), 127, np.int8), "columns")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["row", "columns"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("row", TensorProto.UINT8, [1, PROBE_PRODUCTS])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, 16])],
        [columns],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(folder: Path, where: str) -> None:
    """Save the logits of all graphs, with optimisations and without, and the probe's sum."""
    sums = open_session(folder / "probe.onnx", "on").run(
        None, {"row": np.full((1, PROBE_PRODUCTS), 255, np.uint8)}
    )
    (folder / f"probe.{where}.json").write_text(json.dumps(int(sums[0].max())))
    images = np.load(folder / "test.npz")["images"]
    for name, files in FILES_OF.items():
        for file in files:
            for level in ("on", "off"):
                saved = folder / f"{name}.{file}.{level}.{where}.npy"
                if saved.exists():
                    continue
                is_float = file == "fp32" or level == "off"
                count = FLOAT_IMAGES if is_float and where == "emulated" else len(images)
                session = open_session(folder / f"{name}.{file}.onnx", level)
                logits = [
                    session.run(None, {"images": images[start : min(start + BATCH, count)]})[0]
                    for start in range(0, count, BATCH)
                ]
                np.save(saved, np.concatenate(logits))
                print(saved.stem, flush=True)


def open_session(path: Path, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if level == "off":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def describe_run(folder: Path) -> dict[str, object]:
    """Return how the figures were made, and what the probe showed."""
    from course_utils import machine

    here = machine.describe()
    version = subprocess.run([EMULATOR[0], "--version"], capture_output=True, text=True, check=True)
    count = len(np.load(folder / "test.npz")["labels"])
    return {
        "what": "int8 on x86 without VNNI: sums of two products cut off at 16 bits",
        "made_by": "data/make/saturation.py",
        "date": date.today().isoformat(),
        "emulated": {
            "emulator": version.stdout.splitlines()[0],
            "cpu_model": f"{CPU}: AVX2, no VNNI",
            "remark": "arithmetic only: no times; float graphs (slow) on a few images",
        },
        "native": {"cpu": here.cpu, "int8_instructions": here.int8_instructions},
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        "images": f"the first {count} of the 10,000 test images of Fashion-MNIST",
        "probe": {
            "what": f"sum of {PROBE_PRODUCTS} products 255 * 127 by MatMulInteger",
            "exact": PROBE_PRODUCTS * 255 * 127,
            "each_pair_cut_off": PROBE_PRODUCTS // 2 * (2**15 - 1),
            "native": json.loads((folder / "probe.native.json").read_text()),
            "emulated": json.loads((folder / "probe.emulated.json").read_text()),
        },
        "definitions": DEFINITIONS,
    }


def compare(folder: Path) -> list[dict[str, object]]:
    """Return a row for each graph, with optimisations and without."""
    labels = np.load(folder / "test.npz")["labels"]
    rows = []
    for name, files in FILES_OF.items():
        reference = np.load(folder / f"{name}.fp32.on.native.npy")
        for file in files:
            weights, activations = KINDS[file]
            for level in ("on", "off"):
                native, emulated = (
                    np.load(folder / f"{name}.{file}.{level}.{where}.npy")
                    for where in ("native", "emulated")
                )
                row = {
                    "model": name,
                    "weights": weights,
                    "activations": activations,
                    "optimisations": level,
                    "native": describe_logits(native, reference, labels),
                    "emulated": {"images": len(emulated)},
                }
                if len(emulated) == len(labels):  # no shares of a few images
                    row["emulated"] = describe_logits(emulated, reference, labels)
                apart = relative_error(emulated, native[: len(emulated)])
                row["emulated"]["difference_from_native"] = apart
                rows.append(row)
    return rows


def describe_logits(
    logits: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    answers = logits.argmax(axis=1)
    return {
        "images": len(logits),
        "accuracy": round(float((answers == labels).mean()), 4),
        "other_class_than_fp32": round(float((answers != reference.argmax(axis=1)).mean()), 4),
        "relative_logit_error": relative_error(logits, reference),
    }


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return ``||logits - reference|| / ||reference||`` to three significant digits."""
    return float(f"{np.linalg.norm(logits - reference) / np.linalg.norm(reference):.3g}")


if __name__ == "__main__":
    main()
