"""Values of samples as fields for people: text stays text, and nothing is too long."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.explorer.sample_view import fields_of, is_image

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), ANY, max_size=4))
def test_any_sample_can_be_shown(sample: dict[str, Any]) -> None:
    fields = fields_of(sample, characters=20)
    assert [field["name"] for field in fields] == list(sample)
    assert json.dumps(fields)
    assert all(len(field.get("text", "")) <= 200 for field in fields if field["kind"] != "number")


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": "a"}],
        [{"from": "user", "value": "a"}],
        ['{"role": "user", "content": "a"}'],
        '[{"role": "user", "content": "a"}]',
    ],
)
def test_messages_are_turns(chat: Any) -> None:
    (field,) = fields_of({"messages": chat}, characters=100)
    assert field["turns"] == [{"role": "user", "text": "a"}]


def test_a_long_text_is_cut_and_says_so() -> None:
    (field,) = fields_of({"text": "x" * 50}, characters=20)
    assert (field["text"], field["cut"]) == ("x" * 20, True)


def test_an_svg_is_not_an_image() -> None:
    assert not is_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert is_image({"bytes": b"\xff\xd8\xff\xe0", "path": None})
