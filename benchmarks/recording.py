"""Write what a comparison with another library found to ``data/recorded``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from course_utils import machine
from course_utils.datasets import Split
from course_utils.training import Recipe

RECORDED = Path(__file__).parent.parent / "data" / "recorded"


def write_record(
    name: str,
    what: str,
    *,
    recipe: Recipe,
    shown: Split,
    test: Split,
    versions: Mapping[str, str],
    definitions: Mapping[str, str],
    models: Sequence[object],
) -> None:
    """Write ``data/recorded/<name>.json``, made by the benchmark of the same name."""
    here = machine.describe()
    record = {
        "what": what,
        "made_by": f"benchmarks/{name}.py",
        "date": date.today().isoformat(),
        "machine": str(here),
        "system": here.system,
        "versions": dict(versions),
        "recipe": asdict(recipe),
        "images": f"{len(shown):,} of Fashion-MNIST to train, {len(test):,} to test",
        "definitions": dict(definitions),
        "models": list(models),
    }
    (RECORDED / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}.json is written")
