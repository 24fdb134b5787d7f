"""Reading a text as BERT does: words, pieces and ids, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import datasets
from course_utils.wordpiece import LONGEST_WORD, SPECIAL, WordPiece, split_words

PIECES = [*SPECIAL, "un", "##happi", "##ly", "##happ", "happy", "a", "##a", "##b", "!", "cafe"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(PIECES)


WORDS = {
    "": [],
    "  \t\n ": [],
    "A cat": ["a", "cat"],
    "can't": ["can", "'", "t"],
    "1.5%": ["1", ".", "5", "%"],
    "Crème brûlée": ["creme", "brulee"],
    "a$b": ["a", "$", "b"],
    "a\u2014b": ["a", "\u2014", "b"],
    "a\u00a0b": ["a", "b"],  # a space that does not break
    "a\x00b\ufffdc": ["abc"],
    "a\u200bb": ["ab"],  # a space of no width is skipped
    "東京": ["東", "京"],
    "[MASK]": ["[", "mask", "]"],
}


@pytest.mark.parametrize("text", WORDS)
def test_a_text_is_split_into_words_and_signs(text):
    assert split_words(text) == WORDS[text]


SPLIT = {
    "unhappily": ["un", "##happi", "##ly"],  # "##happi", although "##happ" begins it too
    "happy": ["happy"],
    "aab": ["a", "##a", "##b"],
    "unhappy": ["[UNK]"],  # "un", "##happ", and then no "##y"
    "cat": ["[UNK]"],
    "ba": ["[UNK]"],  # "##b" does not begin a word
    "Café!": ["cafe", "!"],
    "a" * LONGEST_WORD: ["a"] + ["##a"] * (LONGEST_WORD - 1),
    "a" * (LONGEST_WORD + 1): ["[UNK]"],
}


@pytest.mark.parametrize("text", SPLIT)
def test_a_word_is_split_into_the_longest_pieces_from_the_left(tokenizer, text):
    ids = tokenizer.encode_words(text)
    assert [tokenizer.pieces[number] for number in ids] == SPLIT[text]


def test_an_encoded_text_has_its_marks_and_is_filled_up(tokenizer):
    ids = tokenizer.encode("unhappily!", 8)
    assert [tokenizer.pieces[number] for number in ids] == [
        "[CLS]", "un", "##happi", "##ly", "!", "[SEP]", "[PAD]", "[PAD]",
    ]  # fmt: skip


def test_a_long_text_loses_its_end_but_not_its_mark(tokenizer):
    ids = tokenizer.encode("a a a a a a", 4)
    assert [tokenizer.pieces[number] for number in ids] == ["[CLS]", "a", "a", "[SEP]"]


@given(st.text())
def test_every_text_gives_the_length_asked_for_and_known_ids(text):
    tokenizer = WordPiece(PIECES)
    ids = tokenizer.encode(text, 6)
    assert len(ids) == 6
    assert set(ids) <= set(range(len(PIECES)))
    assert ids.index(tokenizer.ids["[SEP]"]) == 5 - ids[::-1].index(tokenizer.ids["[SEP]"])


@given(st.lists(st.sampled_from(["happy", "unhappily", "aab", "!", "cafe"])))
def test_known_words_come_back(words):
    tokenizer = WordPiece(PIECES)
    assert tokenizer.decode(tokenizer.encode_words(" ".join(words))) == " ".join(words)


def test_padding_is_not_decoded(tokenizer):
    assert tokenizer.decode([2.0, 10.0, 3.0, 0.0, 0.0]) == "[CLS] a [SEP]"


@pytest.mark.parametrize(
    ("pieces", "lacking"), [(PIECES[1:], r"\[PAD\]"), (["x", *SPECIAL], "order"), ([], "MASK")]
)
def test_a_vocabulary_without_its_special_pieces_is_refused(pieces, lacking):
    with pytest.raises(ValueError, match=f"lacks.*{lacking}"):
        WordPiece(pieces)


def test_a_length_without_room_is_refused(tokenizer):
    with pytest.raises(ValueError, match="3 at least, not 2"):
        tokenizer.encode("a", 2)


def test_the_vocabulary_of_the_course_reads_plain_english():
    tokenizer = datasets.load_vocabulary()
    assert len(tokenizer.pieces) == len(set(tokenizer.pieces)) == 8000
    text = "a tool for cutting bread , in a kitchen"
    assert tokenizer.decode(tokenizer.encode_words(text)) == text
    assert tokenizer.encode_words("bread") == [tokenizer.ids["bread"]]
