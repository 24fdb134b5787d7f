"""Figures that others measured and published, with their source, to stand beside ours.

Nothing here was measured by this course. What differs from our own measurements stands in
``differs``: read it before you compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from course_utils.measure.measurement import Provenance

EXAMPLES = "NVIDIA, DeepLearningExamples, {}, README at commit {}"
TENSORFLOW = EXAMPLES.format("TensorFlow ResNet-50 v1.5", "1d4211f")
TENSORRT = EXAMPLES.format("PaddlePaddle ResNet-50 v1.5", "38934f9")
CORAL = "Coral FAQ of 2019, copied in github.com/freedomtan/edge_tpu_python_scripts"


@dataclass(frozen=True)
class Published:
    """A row of a published table.

    Attributes:
        name: What ran where.
        values: By what the table goes over, e.g. images a call.
        unit: Of the values.
        source: Work and place in it.
        date: Of the source.
        differs: From what this course measures.
    """

    name: str
    values: Mapping[int, float]
    unit: str
    source: str
    date: str
    differs: str = ""

    @property
    def provenance(self) -> Provenance:
        """Where the values come from."""
        return Provenance("cited", self.source, self.date, self.differs)


def _over_batches(*values: float) -> dict[int, float]:
    return {2**power: value for power, value in enumerate(values)}


# ResNet-50 v1.5 on images of 224×224: images a second over images a call.
RESNET50 = (
    Published(
        "T4, fp32, TensorFlow",
        _over_batches(136.44, 215.38, 289.29, 341.77, 394.36, 414.66, 424.42, 429.83, 425.72),
        "images/s", TENSORFLOW, "2020-06", "TensorFlow 1.15, no compiler",
    ),
    Published(
        "T4, fp16 and fp32, TensorFlow",
        _over_batches(211.04, 381.23, 593.13, 791.12, 914.26, 972.36, 991.39, 995.81, 993.39),
        "images/s", TENSORFLOW, "2020-06", "TensorFlow 1.15, no compiler, mixed precision",
    ),
    Published(
        "A100, fp16 and fp32, TensorFlow",
        _over_batches(223.35, 435.51, 882.00, 1503.24, 1903.58, 1974.01, 3570.46, 3474.94, 3229.32),
        "images/s", TENSORFLOW, "2020-06", "TensorFlow 1.15, no compiler, mixed precision",
    ),
    Published(
        "A100, fp16, TensorRT",
        _over_batches(
            1306.28, 2453.18, 4295.75, 7036.09, 10376.70, 13078.23, 14992.88, 16386.96, 17363.79
        ),
        "images/s", TENSORRT, "2023-12", "compiled by TensorRT; images made on the device",
    ),
    Published(
        "A100, int8, TensorRT",
        _over_batches(
            1430.17, 2683.75, 4792.51, 8366.92, 13083.56, 18171.90, 22578.08, 25730.51, 27935.10
        ),
        "images/s", TENSORRT, "2023-12", "compiled by TensorRT; images made on the device",
    ),
)  # fmt: skip

# US dollars an hour for an A100 of 40 GB: an eighth of p4d.24xlarge, us-east-1, on demand, as
# listed by instances.vantage.sh on 2025-11-30.
A100_40_PRICE = 21.957642 / 8

# Images a second of ResNet-50 in int8, as submitted by NVIDIA to MLPerf inference, offline.
MLPERF_OFFLINE = {
    "NVIDIA A100": 42379.3, "NVIDIA H100": 91825.7, "NVIDIA Jetson AGX Orin": 6438.1,
    "NVIDIA T4": 48897.8 / 8,
}  # fmt: skip
MLPERF = Provenance(
    "cited", "MLCommons, inference results v3.0 (T4: v0.7, an eighth of eight)", "2023"
)

# Milliseconds for one image: a desktop's CPU, and with an Edge TPU on its USB port.
EDGE_TPU_MS = {
    "MobileNet v2": (45.0, 2.3),
    "Inception v1": (92.0, 3.6),
    "Inception v4": (792.0, 100.0),
}
EDGE_TPU = Provenance("cited", CORAL, "2019")

# Picojoules of an operation in 45 nm, and of reading 64 bits.
ENERGY_PJ = {
    "int8 add": 0.03, "int32 add": 0.1, "fp16 add": 0.4, "fp32 add": 0.9,
    "int8 multiply": 0.2, "int32 multiply": 3.1, "fp16 multiply": 1.1, "fp32 multiply": 3.7,
    "8 KiB of SRAM, 64 bits": 10.0, "1 MiB of SRAM, 64 bits": 100.0, "DRAM, 64 bits": 1300.0,
}  # fmt: skip
ENERGY = Provenance(
    "cited", "Horowitz, ISSCC 2014, figure 1.1.9, doi 10.1109/ISSCC.2014.6757323", "2014",
    "45 nm at 0.9 V; DRAM 1300 to 2600",
)  # fmt: skip

# Microseconds that putting one kernel into a GPU's queue takes.
LAUNCH_US = (4.0, 6.0)
LAUNCH = Provenance("cited", "susun-blog.com, pegainfer (3), RTX 5070 Ti, CUDA 13", "2025")

# 10⁹ bytes a second, one way, over 16 lanes.
PCIE_GB_S = {"PCIe 4": 32.0, "PCIe 5": 64.0}
PCIE = Provenance("cited", "NVIDIA, Hopper architecture in-depth", "2022")
