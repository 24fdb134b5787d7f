"""Record what a device of this machine does, for pages that are read where it is missing.

python -m course_utils.record --device cuda
"""

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

from course_utils.device_record import (
    FOLDER,
    PREFIX,
    measure_device,
    name_in_data,
    save_record,
)
from course_utils.devices import (
    KINDS,
    Device,
    DeviceLostError,
    OutOfDeviceMemoryError,
    find_devices,
    get_device,
)


def name_file(device: Device) -> str:
    """Return the name of a device's record, e.g. "device_nvidia_h200.json"."""
    words = re.findall(r"[a-z0-9]+", device.title.lower())
    return f"{PREFIX}{'_'.join(words) or device.kind}.json"


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the file, and say what to do with it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.record", description=__doc__)
    kinds = ["cpu", *KINDS]
    parser.add_argument("--device", choices=kinds, help="default: an accelerator, if there is one")
    parser.add_argument("--out", type=Path, help=f"file to write; default: in {FOLDER.name}/")
    parser.add_argument("--quick", action="store_true", help="a few settings, to try it out")
    asked = parser.parse_args(arguments)
    try:
        device = get_device(asked.device) if asked.device else find_devices()[-1]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    path: Path = asked.out or FOLDER / name_file(device)
    if not path.parent.is_dir():
        print(f"There is no folder {path.parent}; make it, or give another --out.", file=sys.stderr)
        return 2
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        print(f"{path} is no file that can be written; give another --out.", file=sys.stderr)
        return 2
    print(f"Measuring {device}; leave the machine alone for some minutes.")
    try:
        record = measure_device(device, is_quick=asked.quick)
    except (DeviceLostError, OutOfDeviceMemoryError, TimeoutError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    save_record(record, path)
    listed = name_in_data(path)
    if listed:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print("Lesson 06 shows it once data/SHA256SUMS has this line, and no other of this file:")
        print(f"{digest}  {listed}")
    print(f"Written: {path}. CONTRIBUTING.md says how to send it in.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
