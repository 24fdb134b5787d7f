"""Where the time of one int8 image goes: ONNX Runtime with our file beside OpenVINO with NNCF's.

    .venv/bin/python benchmarks/int8_profile.py [MODEL]

Both libraries' own profiles, one thread, the median of many calls for each operator, and then
the time by kind of operator. Their clocks cost time themselves: compare shares, and take totals
from ``int8_peers.py``.
"""

import collections
import sys

import numpy as np
import peers

from course_utils import datasets, models, quantize, runtimes

CALLS = 300


def profile_openvino(artefact: bytes, image: np.ndarray) -> dict[str, float]:
    """Return milliseconds by kind of operator, most first."""
    import openvino

    core = openvino.Core()
    end = artefact.index(b"</net>") + len(b"</net>\n")
    model = core.read_model(artefact[:end], artefact[end:])
    settings = {**peers.OPENVINO_SETTINGS, "PERF_COUNT": True}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    times = collections.defaultdict(list)
    kinds = {}
    for _ in range(CALLS):
        request.infer({0: image})
        for node in request.profiling_info:
            if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                times[node.node_name].append(node.real_time.total_seconds() * 1e3)
                kinds[node.node_name] = f"{node.node_type} {node.exec_type}"
    totals = collections.Counter()
    for name, taken in times.items():
        totals[kinds[name]] += float(np.median(taken))
    return dict(totals.most_common())


def main(name: str) -> None:
    images = datasets.load_fashion().calibration.images[:200]
    model = quantize.fold_batch_norms(models.load_pretrained(name))
    ours = runtimes.build(quantize.quantize_weights(model, 8), images)
    theirs = peers.build_openvino(model, images, "default")
    for label, spent in {
        "ONNX Runtime, ours": runtimes.profile_operators(ours, images[:1], CALLS),
        "OpenVINO, NNCF": profile_openvino(theirs.artefact, images[:1]),
    }.items():
        print(f"\n{name} in {label}: {sum(spent.values()):.3f} ms")
        for kind, taken in spent.items():
            print(f"{taken:9.4f} ms  {kind}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["resnet8_w32_fashion"]))
