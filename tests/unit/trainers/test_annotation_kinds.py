"""Kinds of annotations: their values, and what they refuse."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from saved_models import save_language_model

from attent_select.errors import InputError
from trainers.annotation import Examples, FitContext, Fitted, Samples
from trainers.annotations.column import Column
from trainers.annotations.duplicates import Duplicates
from trainers.annotations.length import Length
from trainers.annotations.loss import Loss
from trainers.annotations.near_duplicates import NearDuplicates
from trainers.annotations.ngram import Ngram
from trainers.inputs.chat_messages import spoken_text
from trainers.inputs.tokenizer import train_tokenizer

ENGLISH = [
    "The river ran slowly past the old mill, and the children watched the boats.",
    "She had never seen the sea, but she knew the sound of the waves at night.",
    "In the morning the old man walked to the market and bought bread and fish.",
]
CODE = [
    "def main(args): return [int(x) for x in args if x != '']",
    "for (int i = 0; i < n; ++i) { sum += values[i]; }",
    "#include <vector>\nstd::vector<int> values(n); return values.size();",
]
FOREIGN = ["Ficheiro não encontrado: verifique o caminho indicado", "Konnte Datei nicht öffnen"]


def context(corpus: list[Any], target: Examples | None = None, column: str = "text") -> FitContext:
    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield {column: corpus}

    return FitContext(target=target, pool_sample=pool_sample)


def english(kinds: tuple[str, ...] | None = None) -> Examples:
    texts = ENGLISH if kinds is None else [*ENGLISH, *CODE]
    return Examples({"text": texts}, len(texts), kinds)


def values(kind: Ngram, fitted: Fitted, texts: list[Any]) -> list[float]:
    return kind.measure({"text": texts}, fitted).rows["value"].to_list()


def test_text_like_the_target_has_larger_values_than_the_rest_of_the_corpus() -> None:
    kind = Ngram()
    fitted = kind.fit(context([*CODE * 20, *ENGLISH], english()))
    prose, code = values(kind, fitted, ["The old man watched the sea.", "for x in values: return"])
    assert prose > 0 > code


def test_text_that_neither_target_nor_corpus_has_never_scores_best() -> None:
    kind = Ngram()
    fitted = kind.fit(context([*CODE * 20, *ENGLISH], english()))
    foreign = values(kind, fitted, FOREIGN)
    assert max(foreign) < min(values(kind, fitted, ENGLISH))
    assert max(foreign) < values(kind, fitted, ["The boats ran to the market"])[0]


def test_a_fit_survives_being_stored() -> None:
    kind = Ngram()
    fitted = kind.fit(context([*CODE, *ENGLISH], english()))
    stored = Fitted.from_bytes(fitted.to_bytes())
    assert (stored.notes, stored.digest) == (dict(fitted.notes), fitted.digest)
    assert values(kind, stored, CODE) == values(kind, fitted, CODE)


def test_values_do_not_depend_on_the_batch() -> None:
    kind = Ngram()
    fitted = kind.fit(context([*CODE, *ENGLISH], english()))
    texts = [*ENGLISH, *CODE, "word " * 100_000, *FOREIGN]
    assert values(kind, fitted, texts) == [values(kind, fitted, [text])[0] for text in texts]


def test_each_text_is_compared_with_the_kind_of_reference_that_fits_it_best() -> None:
    kind = Ngram()
    kinds = ("prose",) * 3 + ("code",) * 3
    fitted = kind.fit(context([*FOREIGN * 10, *ENGLISH, *CODE], english(kinds)))
    rows = kind.measure({"text": [ENGLISH[0], CODE[0], None]}, fitted).rows
    assert rows["kind"].to_list() == ["prose", "code", None]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (None, "empty"),
        ("", "empty"),
        (" \n", "empty"),
        (b"bytes", "unreadable"),
        ("a\ud800", "unreadable"),
    ],
)
def test_what_is_not_text_has_no_value_and_a_status(text: Any, status: str) -> None:
    kind = Ngram()
    rows = kind.measure({"text": [ENGLISH[0], text]}, kind.fit(context(CODE, english()))).rows
    assert rows["status"].to_list() == ["ok", status]
    assert rows["value"].is_null().to_list() == [False, True]


def test_token_ids_replace_words_and_are_counted(tmp_path: Path) -> None:
    train_tokenizer([*ENGLISH, *CODE], tmp_path, vocab_size=300)
    kind = Ngram(tokenizer=str(tmp_path))
    fitted = kind.fit(context([*CODE * 20, *ENGLISH], english()))
    rows = kind.measure({"text": [*ENGLISH, *CODE]}, fitted).rows
    assert rows["value"][:3].min() > rows["value"][3:].max()  # type: ignore[operator]
    length = Length(str(tmp_path))
    counted = length.measure({"text": [*ENGLISH, *CODE]}, length.fit(context(CODE))).rows
    assert rows["num_units"].to_list() == counted["num_units"].to_list()
    assert counted["num_characters"].to_list() == [len(text) for text in [*ENGLISH, *CODE]]


def test_a_target_of_another_modality_is_refused() -> None:
    images = Examples({"text": [b"\x89PNG", b"\x89PNG"]}, 2)
    with pytest.raises(InputError, match="'text' of the target has values of type bytes, expected"):
        Ngram().fit(context(CODE, images))
    with pytest.raises(InputError, match="'text' of the corpus has values of type bytes"):
        Ngram().fit(context([b"\x89PNG"], english()))


@pytest.mark.parametrize(
    ("found", "value_type"),
    [
        ([True, None], "bool"),
        ([1, None, -(2**62)], "int64"),
        ([1, 0.5], "float32"),
        ([0.5, None], "float32"),
        (["web", None], "string"),
    ],
)
def test_the_type_of_a_column_follows_from_its_values(found: list[Any], value_type: str) -> None:
    kind = Column("source")
    fitted = kind.fit(context(found, column="source"))
    assert fitted.notes["value_type"] == value_type
    assert kind.measure({"source": found}, fitted).rows["value"].to_list() == found


def test_numbers_that_are_not_finite_have_a_status() -> None:
    kind = Column("score", value_type="float32")
    rows = kind.measure({"score": [float("nan"), 1, None]}, kind.fit(context([]))).rows
    assert rows["status"].to_list() == ["nonfinite", "ok", "empty"]


@pytest.mark.parametrize("found", [[None], ["a", 1], [b"a"], [[1]]])
def test_columns_without_a_common_type_are_refused(found: list[Any]) -> None:
    with pytest.raises(InputError, match="the column 'source' has"):
        Column("source").fit(context(found, column="source"))


@pytest.mark.parametrize("value", [0.5, "a", True, 2**63])
def test_a_later_value_of_another_type_is_named(value: Any) -> None:
    kind = Column("source", value_type="int64")
    with pytest.raises(InputError, match=r"expected int64: give the type.*--set value_type="):
        kind.measure({"source": [1, value]}, kind.fit(context([1], column="source")))


def duplicates(kind: Duplicates, found: list[Any]) -> list[tuple[Any, ...]]:
    """Value, rank and size of each row of one shard, 1."""
    rows = kind.measure({"text": found}, Fitted()).rows
    ids = pl.DataFrame({"shard_id": [1] * len(found), "row": range(len(found))}).cast(pl.UInt32)
    resolved = kind.resolve(pl.concat([ids, rows], how="horizontal").reverse())
    return resolved.sort("row").select("value", "rank", "size").rows()


def test_duplicates_are_numbered_in_the_order_of_the_corpus() -> None:
    found = ["a  B", "c", None, "A b\n", b"c", "a b"]
    first = 1 << 32
    assert duplicates(Duplicates(), found) == [
        (first, 0, 3),
        (first + 1, 0, 2),
        (None, None, None),
        (first, 1, 3),
        (first + 1, 1, 2),
        (first, 2, 3),
    ]
    assert {size for *_, size in duplicates(Duplicates(normalise=False), ["a B", "a b"])} == {1}


def test_duplicates_of_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="expected text, chats, bytes or images"):
        Duplicates().fit(context([1, 2]))


CHAT = [
    {"role": "user", "content": ENGLISH[0]},
    {"role": "assistant", "content": [{"type": "text", "text": ENGLISH[1]}, {"type": "image"}]},
]
SHAREGPT = [{"from": "human", "value": ENGLISH[0]}, {"from": "gpt", "value": ENGLISH[1]}]
SAID = f"{ENGLISH[0]}\n{ENGLISH[1]}"


def test_a_chat_is_the_text_that_its_messages_say(tmp_path: Path) -> None:
    train_tokenizer([*ENGLISH, *CODE], tmp_path, vocab_size=300)
    chats = [SAID, CHAT, SHAREGPT, json.dumps(CHAT), [json.dumps(turn) for turn in CHAT]]
    ngram = Ngram()
    fitted = ngram.fit(context([*chats, *CODE], Examples({"text": chats}, len(chats))))
    length = Length(str(tmp_path))
    near = NearDuplicates()
    measured = [
        ngram.measure({"text": chats}, fitted),
        length.measure({"text": chats}, length.fit(context(chats))),
        near.measure({"text": chats}, near.fit(context(chats))),
    ]
    for rows in (each.rows for each in measured):
        assert set(rows["status"]) == {"ok"}
        assert rows.n_unique() == 1
    lists = [CHAT, SHAREGPT, [*CHAT, CHAT[0]], None]
    assert [size for *_, size in duplicates(Duplicates(), lists)] == [2, 2, 1, None]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ([], "empty"),
        ([1, 2], "unreadable"),
        ([{"role": "user"}], "unreadable"),
        ('[{"a": 1}', "ok"),
    ],
)
def test_a_list_that_is_not_a_chat_has_a_status(value: Any, status: str) -> None:
    kind = Ngram()
    rows = kind.measure({"text": [value]}, kind.fit(context(CODE, english()))).rows
    assert rows["status"].to_list() == [status]


def test_calls_of_tools_are_part_of_what_a_chat_says() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert "Oslo" in spoken_text([turn])


def test_units_of_a_task_are_those_that_scoring_counts(tmp_path: Path) -> None:
    model = save_language_model(tmp_path)
    section = {"response": "answer", "max_length": 24, "tokenizer": str(model)}
    samples = {"prompt": ["Say", "Say", "a", "a"], "answer": ["short", ENGLISH[0], None, ""]}
    length = Length(str(model), task=section)
    assert set(length.columns) == {"prompt", "answer"}
    rows = length.measure(samples, length.fit(context([]))).rows
    loss = Loss(str(model), task=section)
    context_of_all = FitContext(None, lambda _: iter([samples]))
    scored = loss.measure(samples, loss.fit(context_of_all)).rows
    assert rows["status"].to_list() == scored["status"].to_list()
    assert rows["num_units"].to_list() == scored["num_units"].to_list()
    assert rows["value"].to_list()[2:] == [None, None]


def test_a_task_without_units_is_refused() -> None:
    kind = Length("", task={"name": "image_classification", "image_size": 8})
    with pytest.raises(InputError, match="counts no units: set the budget in samples"):
        kind.fit(context([]))
