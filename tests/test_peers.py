"""The runners of other libraries that benchmarks compare ours with."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
INTERRUPTED = """
import gc, signal
import numpy as np
import peers
from torch import nn

images = np.zeros((2, 1, 12, 12), np.float32)
net = nn.Sequential(nn.Flatten(), nn.Linear(144, 10)).eval()
runners = [peers.build_openvino(net, images, preset) for preset in (None, None, "default")]
assert [runner(images[:1]).shape for runner in runners] == [(1, 10)] * 3
while runners:
    del runners[0]  # in the order in which they were made
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_no_crash_after_models_of_openvino_were_closed():
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        cwd=BENCHMARKS,
    )
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["interrupted"], 0), done.stderr
