"""Do the course's latencies agree with other people's instruments, in the same run?

    python benchmarks/timing_references.py

The references: torch.utils.benchmark.Timer, whose median should lie in the half of the calls that
measure.compare states; and ONNX Runtime's own profile, whose time of a call should be within 10 %.
"""

import numpy as np
import torch
from torch.utils.benchmark import Timer

from course_utils import datasets, machine, measure, models, runtimes

TURNS = 5


def main() -> None:
    torch.set_num_threads(1)
    fashion = datasets.load_fashion()
    print(machine.describe())
    print(
        "network               batch  runtime         ours ms (half of the calls)   Timer ms"
        "  within  profile ms  off"
    )
    for name in models.ARCHITECTURES:
        model = models.load_pretrained(name)
        for batch in (1, 32):
            images = fashion.test.images[:batch]
            runners = {
                "ONNX Runtime": runtimes.build(model, fashion.calibration.images),
                "PyTorch eager": runtimes.build_eager(model, images),
            }
            for label, runner in runners.items():
                timer = Timer("runner(images)", globals={"runner": runner, "images": images})
                times_ms, theirs = [], []
                for _ in range(TURNS):
                    times_ms.append(measure.compare(runner, images=images, rounds=40).times_ms[0])
                    theirs.append(1000 * timer.blocked_autorange(min_run_time=0.3).median)
                ours = measure.summarize_latency(np.concatenate(times_ms), measure.measured_now())
                theirs_ms = float(np.median(theirs))
                is_within = ours.low <= theirs_ms <= ours.high
                profile = runtimes.profile_call(runner, images)
                off = profile.runtime_ms / profile.call_ms - 1
                print(
                    f"{name:22s} {batch:4d}  {label:14s} {ours.value:8.4f}"
                    f" ({ours.low:.4f}–{ours.high:.4f})"
                    f"  {theirs_ms:8.4f}  {'yes' if is_within else 'NO':>6s}"
                    f"  {profile.runtime_ms:8.4f}  {100 * off:+.1f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
