"""From text to token ids, as BERT reads it (Devlin et al., 2019, arXiv 1810.04805).

A text is split into lower-case words and signs, and each word into the longest pieces that the
vocabulary holds: WordPiece (Wu et al., 2016, arXiv 1609.08144). Pieces that do not begin a word
are written with "##" before them: "unhappily" may become "un ##happi ##ly".
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK)
LONGEST_WORD = 100  # letters; BERT does not look into longer ones


class WordPiece:
    """A vocabulary and how it reads a text.

    Attributes:
        pieces: The piece of each id; the five ``SPECIAL`` ones are among them.
        ids: The id of each piece.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """Take the pieces as the lines of BERT's ``vocab.txt`` list them.

        Raises:
            ValueError: A special piece is missing, or [PAD] is not the first.
        """
        self.pieces = tuple(pieces)
        self.ids = {piece: number for number, piece in enumerate(self.pieces)}
        self._encode_word = cache(self._split_word)  # most words of a text were seen before
        lacking = [piece for piece in SPECIAL if piece not in self.ids]
        if lacking or self.pieces[0] != PAD:
            raise ValueError(
                f"A vocabulary begins with {PAD} and holds {', '.join(SPECIAL)}; this one lacks"
                f" {', '.join(lacking) or 'that order'}. Give it the lines of a BERT vocab.txt."
            )

    def encode(self, text: str, length: int) -> list[int]:
        """Return ``length`` ids: [CLS], the text's pieces, [SEP] and as many [PAD] as are needed.

        A text that is too long loses its end, but not its [SEP].

        Raises:
            ValueError: There is no room for even one piece.
        """
        if length < 3:
            raise ValueError(
                f"[CLS], one piece and [SEP] need a length of 3 at least, not {length}."
            )
        pieces = self.encode_words(text)[: length - 2]
        filled = [self.ids[CLASSIFY], *pieces, self.ids[SEPARATE]]
        return filled + [0] * (length - len(filled))

    def encode_words(self, text: str) -> list[int]:
        """Return the ids of the text's pieces alone, however many there are."""
        return [piece for word in split_words(text) for piece in self._encode_word(word)]

    def decode(self, ids: Iterable[float]) -> str:
        """Return the pieces of the ids, joined to words again; without [PAD]."""
        pieces = [self.pieces[int(number)] for number in ids if number != 0]
        return " ".join(pieces).replace(" ##", "")

    def _split_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of the longest pieces from the left; [UNK] if one cannot be found."""
        unknown = (self.ids[UNKNOWN],)
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.ids), None)
            if end is None or len(word) > LONGEST_WORD:
                return unknown
            found.append(self.ids[mark + word[start:end]])
            start = end
        return tuple(found)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case without accents; each sign is one of its own."""
    plain = unicodedata.normalize("NFD", text.lower())
    spaced = "".join(_space(letter) for letter in plain)
    return spaced.split()


def _space(letter: str) -> str:
    """Return the letter, set apart if it is a word of its own, or nothing if BERT skips it."""
    kind = unicodedata.category(letter)
    if letter.isspace():
        return " "
    if kind == "Mn" or kind.startswith("C") or letter == "\ufffd":  # accents, control characters
        return ""
    if kind.startswith("P") or _is_ascii_sign(letter) or _is_ideograph(letter):
        return f" {letter} "
    return letter


def _is_ascii_sign(letter: str) -> bool:
    return letter.isascii() and not letter.isalnum()


def _is_ideograph(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("CJK") and unicodedata.category(letter) == "Lo"
