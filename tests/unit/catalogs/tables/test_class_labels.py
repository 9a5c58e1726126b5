"""Labels of a classification: which class number each of them has."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError, SampleError
from catalogs.tables.class_labels import Classes, class_names, label_text, sorted_classes


def notes(column: str, feature: Any) -> dict[bytes, bytes]:
    """Footer notes of `datasets`."""
    return {b"huggingface": json.dumps({"info": {"features": {column: feature}}}).encode()}


def test_the_names_of_a_class_label_are_those_in_the_notes_of_datasets() -> None:
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    assert class_names(notes("label", feature), "label") == ("cat", "dog")
    assert class_names(notes("label", feature), "other") is None


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {b"huggingface": b"{"},
        {b"huggingface": b"[]"},
        {b"huggingface": b"\xff"},
        notes("label", None),
        notes("label", {"_type": "ClassLabel", "names": 3}),
        notes("label", {"_type": "Value", "dtype": "int64"}),
    ],
)
def test_other_notes_name_no_classes(damaged: Any) -> None:
    assert class_names(damaged, "label") is None


@pytest.mark.parametrize(
    ("label", "number"), [(0, 0), (7, 7), (True, 1), (False, 0), (2.0, 2), (2**62, 2**62)]
)
def test_without_names_a_label_is_its_class_number(label: Any, number: int) -> None:
    assert Classes("label").number_of(label) == number


@pytest.mark.parametrize(("label", "number"), [("dog", 1), ("cat", 0), (1, 1), (True, 1), (0.0, 0)])
def test_with_names_a_label_is_a_name_or_its_number(label: Any, number: int) -> None:
    assert Classes("label", ("cat", "dog")).number_of(label) == number


@pytest.mark.parametrize("label", [None, float("nan")])
def test_a_missing_label_is_an_empty_sample(label: Any) -> None:
    with pytest.raises(SampleError, match=r"column 'label' is empty") as error:
        Classes("label", ("cat",)).number_of(label)
    assert error.value.status == "empty"


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (None, "cat", "a class number, or the names of the classes in task.classes"),
        (None, -1, "a class number"),
        (None, 0.5, "a class number"),
        (None, [1], "a class number"),
        (("cat", "dog"), "bird", r"one of the 2 task.classes \(cat, dog\), or its number"),
        (("cat", "dog"), 2, "one of the 2 task.classes"),
        (("a", "b", "c", "d", "e", "f"), b"a", r"\(a, b, c, d, e, …\)"),
    ],
)
def test_what_is_not_a_class_is_named(names: Any, label: Any, expected: str) -> None:
    with pytest.raises(
        SampleError, match=rf"column 'label' holds .*: expected {expected}|{expected}"
    ) as error:
        Classes("label", names).number_of(label)
    assert error.value.status == "unreadable"


def test_a_class_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"classes: 'cat' is listed twice"):
        Classes("label", ("cat", "dog", "cat"))


@given(st.lists(st.text() | st.floats(allow_nan=False), min_size=1))
def test_every_label_of_a_corpus_gets_a_class_number_of_its_own(labels: list[Any]) -> None:
    texts = [text for label in labels if (text := label_text(label)) is not None]
    classes = Classes("label", sorted_classes(texts))
    numbers = {label_text(label): classes.number_of(label) for label in labels}
    assert sorted(numbers.values()) == list(range(len(set(texts))))


def test_classes_are_ordered_as_numbers_then_as_text() -> None:
    assert sorted_classes(["b", "10", "9", "0.5", "a", "9"]) == ("0.5", "9", "10", "a", "b")
