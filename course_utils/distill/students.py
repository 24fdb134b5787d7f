"""Many small students in one file: those of each size, way of learning and seed."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from course_utils import verified
from course_utils.models import DSCNN, ResNet8, read_metadata
from course_utils.prune.checkpoints import pack_tensors, unpack_tensors

NETWORKS: dict[str, Callable[[int], nn.Module]] = {"DS-CNN": DSCNN, "ResNet-8": ResNet8}


@dataclass(frozen=True)
class Student:
    """A trained student.

    Attributes:
        model: In evaluation mode on the CPU.
        about: What is known of it: "network" (a key of ``NETWORKS``), "width", "seed", "teacher"
            (None: trained alone), "temperature", "hard_share", "images" (how many it learned
            from), "epochs", "test_accuracy".
    """

    model: nn.Module
    about: dict[str, Any]


def load_students(name: str) -> dict[str, Student]:
    """Return the students in a file of the course, by name.

    Args:
        name: Of the file in ``data/checkpoints``, without its ending.

    Raises:
        ValueError: It is no file of students.
        course_utils.verified.DamagedFileError: It is missing or damaged.
    """
    return read_students(verified.read(f"checkpoints/{name}.safetensors"))


def read_students(content: bytes) -> dict[str, Student]:
    """Return the students in a file of ``save_students``.

    Raises:
        ValueError: It is no such file.
    """
    try:
        noted = read_metadata(content)
        students = json.loads(noted["students"])
        state = unpack_tensors(load(content), json.loads(noted["shapes"]))
        found = {}
        for name, about in students.items():
            model = NETWORKS[about["network"]](about["width"])
            own = {
                key.removeprefix(f"{name}/"): one
                for key, one in state.items()
                if key.startswith(f"{name}/")
            }
            model.load_state_dict(own)
            found[name] = Student(model.eval(), about)
    except Exception as error:  # safetensors, json, torch and NumPy have classes of their own
        raise ValueError(f"This is no file of distill.save_students ({error!s:.80}).") from None
    return found


def save_students(students: Mapping[str, Student], file: Path, about: Mapping[str, str]) -> None:
    """Write students into one file, weights as float16; all of it or nothing.

    Args:
        students: By name; what ``about`` says of "network" and "width" must be true.
        file: A ``.safetensors`` file.
        about: What a reader of the file should know, e.g. the recipe.
    """
    state: dict[str, Tensor] = {}
    for name, student in students.items():
        state |= {f"{name}/{key}": one for key, one in student.model.state_dict().items()}
    tensors, shapes = pack_tensors(state)
    noted = {name: student.about for name, student in students.items()}
    metadata = {**about, "students": json.dumps(noted), "shapes": json.dumps(shapes)}
    part = file.with_suffix(".part")
    part.write_bytes(save(tensors, metadata))
    os.replace(part, file)
