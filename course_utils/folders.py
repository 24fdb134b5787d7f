"""Where the course keeps what it measured and what a learner did. Nothing is kept elsewhere."""

import os
from pathlib import Path

import platformdirs

NAME = "inference-measured"


def cache_folder() -> Path:
    """Return the folder of measurements: safe to delete, they are then made again.

    The environment variable ``INFERENCE_MEASURED_CACHE`` puts it elsewhere.
    """
    return Path(os.environ.get("INFERENCE_MEASURED_CACHE") or platformdirs.user_cache_dir(NAME))


def data_folder() -> Path:
    """Return the folder of predictions, attempts and results: yours, never deleted.

    The environment variable ``INFERENCE_MEASURED_DATA`` puts it elsewhere.
    """
    return Path(os.environ.get("INFERENCE_MEASURED_DATA") or platformdirs.user_data_dir(NAME))
