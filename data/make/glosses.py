"""Make ``data/glosses/glosses.txt.xz`` from WordNet 3.0.

    python data/make/glosses.py --source FOLDER

FOLDER holds ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv`` (in Debian: the package
``wordnet-base``, folder ``/usr/share/wordnet``). Each line of the file made is the number of a
class, a tab and a definition, in WordNet's order, in which neighbours are alike and compress well.
"""

import argparse
import re
from pathlib import Path

from packing import BYTES, pack_

FILE = Path(__file__).parent.parent / "glosses" / "glosses.txt"
PARTS = ["noun", "verb", "adj", "adv"]
EXAMPLES = re.compile(r'[;:,]\s*"')  # where the definition ends and quoted sentences begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    source = parser.parse_args().source
    definitions = read_definitions(source)
    lines = "".join(f"{label}\t{text}\n" for text, label in definitions)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(lines.encode())
    packed = pack_(FILE, BYTES)
    print(f"{packed.name}: {len(definitions):,} definitions, {packed.stat().st_size:,} bytes")


def read_definitions(source: Path) -> list[tuple[str, int]]:
    """Return each definition and its class; one that stands in two synsets keeps the first's."""
    found: dict[str, tuple[str, int]] = {}  # by the definition in lower case, as encoders read it
    for part in PARTS:
        for line in (source / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            synset, gloss = line.split(" | ", maxsplit=1)
            definition = " ".join(EXAMPLES.split(gloss, maxsplit=1)[0].split()).strip("; ")
            found.setdefault(definition.lower(), (definition, int(synset.split()[1])))
    return list(found.values())


if __name__ == "__main__":
    main()
