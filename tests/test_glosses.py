"""The definitions of WordNet: what the splits hold, and that they share nothing."""

import numpy as np
import pytest

from course_utils import datasets, fingerprint
from course_utils.datasets import GLOSS_CLASSES, GLOSS_LENGTH

SIZES = {"test": 8_000, "validation": 4_000, "train": 104_697}


@pytest.fixture(scope="module")
def glosses():
    return datasets.load_glosses()


def test_each_split_has_its_size():
    assert {part: len(rows[0]) for part, rows in datasets.read_glosses().items()} == SIZES


def test_no_definition_stands_in_two_splits_or_twice():
    texts = [text.lower() for rows in datasets.read_glosses().values() for text in rows[0]]
    assert len(set(texts)) == len(texts)


def test_no_example_sentence_is_left():
    texts = [text for rows in datasets.read_glosses().values() for text in rows[0]]
    assert all(text == text.strip() and text for text in texts)
    assert not [text for text in texts if '; "' in text]


def test_the_order_is_random():
    labels = np.array(datasets.read_glosses()["test"][1])
    halves = [np.bincount(half, minlength=45) / 4000 for half in np.split(labels, 2)]
    assert np.abs(halves[0] - halves[1]).max() < 0.02


def test_every_class_is_learnt_and_tested(glosses):
    assert len(GLOSS_CLASSES) == len(set(GLOSS_CLASSES)) == 45
    for part in ("train", "test"):
        assert set(datasets.read_glosses()[part][1]) == set(range(45))


KINDS = {"any of various long-tailed primates (excluding the prosimians)": "noun.animal"}


@pytest.mark.parametrize("text", KINDS)
def test_a_known_definition_has_its_class(text):
    found = {
        one: label
        for rows in datasets.read_glosses().values()
        for one, label in zip(*rows, strict=True)
    }
    assert GLOSS_CLASSES[found[text]] == KINDS[text]


def test_a_split_is_token_ids_as_whole_float32(glosses):
    split = glosses.validation
    assert split.images.shape == (4000, GLOSS_LENGTH)
    assert split.images.dtype == np.float32
    assert np.array_equal(split.images, split.images.astype(np.int64))
    assert split.labels.dtype == np.int64
    assert len(split.texts) == len(split)


def test_the_first_texts_stay_beside_their_ids(glosses):
    part = glosses.validation.first(3)
    assert np.array_equal(part.images, glosses.encode(part.texts))
    with pytest.raises(ValueError, match="4001 cannot be taken"):
        glosses.validation.first(4001)


def test_any_text_can_be_encoded(glosses):
    ids = glosses.encode(["a tool for cutting bread", ""])
    assert glosses.tokenizer.decode(ids[0]) == "[CLS] a tool for cutting bread [SEP]"
    assert glosses.tokenizer.decode(ids[1]) == "[CLS] [SEP]"
    assert glosses.encode([]).shape == (0, GLOSS_LENGTH)


def test_one_text_instead_of_a_list_is_refused(glosses):
    with pytest.raises(ValueError, match=r"write encode\(\['a tool'\]\)"):
        glosses.encode("a tool")


def test_a_cached_measurement_stays_that_of_the_same_data(glosses):
    before = fingerprint.of(datasets.load_glosses())
    glosses.encode(["a word not read before: zyzzyva"])
    assert len(glosses.validation) == 4000
    assert fingerprint.of(glosses) == before
