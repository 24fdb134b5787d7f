"""Does measure.compare find what is there, and nothing else? Under a noisy neighbour.

    python benchmarks/planted_differences.py [TRIALS]

The neighbours are processes that compute in bursts of random length, one for each core. First a
network is compared with itself; then ten calls of it with eleven, which is a slowdown of 1.10 by
construction. The last line times the same one after the other, as people do.
"""

import sys
import time

import numpy as np

from course_utils import datasets, machine, measure, models, runtimes


def repeat(runner: runtimes.Runner, calls: int) -> measure.latency.Run:
    def run(images: np.ndarray) -> np.ndarray:
        for _ in range(calls):
            logits = runner(images)
        return logits

    return run


def time_one_after_the_other(ten, eleven, images: np.ndarray, calls: int = 100) -> float:
    medians = []
    for run in (ten, eleven):
        times = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            run(images)
            times.append(time.perf_counter_ns() - start)
        medians.append(np.median(times))
    return float(medians[1] / medians[0])


def main(trials: int) -> None:
    fashion = datasets.load_fashion()
    lenet = models.load_pretrained("lenet_300_100_fashion")
    runner = runtimes.build(lenet, fashion.calibration.images)
    image = fashion.test.images[:1]
    ten, eleven = repeat(runner, 10), repeat(runner, 11)
    start = time.perf_counter()
    with measure.noisy_neighbours():
        same = [measure.compare(ten, ten, images=image) for _ in range(trials)]
        planted = [measure.compare(eleven, ten, images=image) for _ in range(trials)]
        seconds = (time.perf_counter() - start) / (2 * trials)
        naive = [time_one_after_the_other(ten, ten, image) for _ in range(trials)]

    none = sum(not found.says_difference(1) for found in same)
    print(f"{machine.describe()}; {seconds:.1f} s a comparison")
    print(f"A against A: no difference found in {none} of {trials}")
    worst = max(abs(found.speed(1).value - 1) for found in same)
    print(f"  the ratio was off by up to {100 * worst:.1f} %")
    found = sum(one.speed(1).low > 1 for one in planted)
    ratios = [one.speed(1).value for one in planted]
    covered = sum(one.speed(1).low <= 1.1 <= one.speed(1).high for one in planted)
    print(f"A planted 1.10: found in {found} of {trials}, 1.10 inside the interval in {covered};")
    print(f"  ratios from {min(ratios):.3f} to {max(ratios):.3f}")
    ended = [one.ended for one in same + planted]
    print(f"Ended: {ended.count('precise')} precise, {ended.count('time limit')} at the limit")
    off = 100 * np.abs(np.array(naive) - 1)
    print(
        f"One after the other, A against A: off by {np.median(off):.1f} % (median) up to", end=" "
    )
    print(f"{off.max():.1f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
