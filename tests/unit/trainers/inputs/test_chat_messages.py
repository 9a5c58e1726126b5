"""Chat messages in the formats of current data sets."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attent_select.errors import SampleError
from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from trainers.inputs.chat_messages import messages_in, tools_in, variables_in

PLAIN = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "fine"}]
CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}


def read_back(folder: Path, column: pa.Array) -> Any:
    path = str(folder / "shard.parquet")
    pq.write_table(pa.table({"m": column}), path)
    corpus = Corpus.from_inspections(
        [(storage.info(path), "parquet", inspect_shard(path, "parquet"))]
    )
    return dict(corpus.read(0, rows=[0], columns=["m"]).values)["m"][0]


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        json.dumps(PLAIN),
        [json.dumps(message) for message in PLAIN],
        [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "fine"}],
        [{"from": "user", "value": "hello"}, {"from": "assistant", "value": "fine"}],
        [{**message, "tool_calls": None, "name": None} for message in PLAIN],
        {name: [message[name] for message in PLAIN] for name in ("role", "content")},
        {"from": ["human", "gpt"], "value": ["hello", "fine"]},
    ],
    ids=[
        "mappings",
        "JSON text",
        "JSON messages",
        "ShareGPT",
        "ShareGPT roles",
        "null-filled",
        "lists in a mapping",
        "ShareGPT in a mapping",
    ],
)
def test_every_format_gives_the_same_messages(value: Any) -> None:
    assert messages_in(value, column="m") == PLAIN


def test_messages_in_parquet_s_json_type_are_read(tmp_path: Path) -> None:
    texts = pa.array([[json.dumps(message) for message in PLAIN]], pa.list_(pa.string()))
    value = read_back(tmp_path, texts.cast(pa.list_(pa.json_())))
    assert messages_in(value, column="m") == PLAIN


def test_nulls_that_arrow_adds_to_structs_are_removed_at_every_depth(tmp_path: Path) -> None:
    others = {"type": "function", "function": {"name": "set", "arguments": {"unit": "K"}}}
    rows = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, others]},
        {"role": "tool", "content": "sunny", "name": "get"},
    ]
    value = read_back(tmp_path, pa.array([rows]))
    assert "tool_calls" in value[0]  # added by Arrow
    assert messages_in(value, column="m") == [
        rows[0],
        {"role": "assistant", "tool_calls": [CALL, others]},
        rows[2],
    ]


def test_a_null_that_json_text_contains_is_kept() -> None:
    call = {"function": {"name": "get", "arguments": {"unit": None}}}
    text = json.dumps([{"role": "assistant", "content": None, "tool_calls": [call]}])
    (message,) = messages_in(text, column="m")
    assert message["tool_calls"] == [call]


def test_content_may_be_parts_or_absent_beside_tool_calls() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": ["hello"]},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]
    assert messages_in(messages, column="m") == [
        messages[0],
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "tool_calls": [CALL]},
        messages[3],
    ]


def test_a_function_call_of_sharegpt_is_a_tool_call() -> None:
    value = [
        {"from": "system", "value": "s"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "sunny"},
    ]
    assert messages_in(value, column="m") == [
        {"role": "system", "content": "s"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny"},
    ]


@pytest.mark.parametrize(
    ("value", "reason", "status"),
    [
        (None, "'m' is empty", "empty"),
        ({"role": ["user"], "content": []}, "'m' holds dict: expected a list", "unreadable"),
        ({"role": [], "content": []}, "'m' holds no message", "empty"),
        (3, "'m' holds int: expected a list of messages", "unreadable"),
        ("hello", "'m' holds text that is not JSON", "unreadable"),
        ([], "'m' holds no message", "empty"),
        ([PLAIN[0], 3], "'m', message 2 is int", "unreadable"),
        ([PLAIN[0], "{"], "'m', message 2 holds text that is not JSON", "unreadable"),
        ([{"content": "x"}], "'m', message 1 has no role", "unreadable"),
        ([{"role": "user"}], "'m', message 1 has neither content nor tool calls", "unreadable"),
        ([{"role": "user", "content": 3}], "'m', message 1 has content of type int", "unreadable"),
        ([{"from": "nobody", "value": "x"}], "message 1 is from 'nobody'", "unreadable"),
    ],
)
def test_a_value_that_is_not_a_chat_has_a_status_and_a_reason(
    value: Any, reason: str, status: str
) -> None:
    with pytest.raises(SampleError, match=reason) as caught:
        messages_in(value, column="m")
    assert caught.value.status == status


def test_tools_and_variables_are_values_or_json_text() -> None:
    for value in ([TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]):
        assert tools_in(value, column="t") == [TOOL]
    assert tools_in(None, column="t") is None
    assert tools_in([], column="t") is None
    assert variables_in('{"enable_thinking": false}', column="v") == {"enable_thinking": False}
    assert variables_in({"a": 1, "b": None}, column="v") == {"a": 1}
    assert variables_in(None, column="v") == {}


@pytest.mark.parametrize("value", ["{", 3, {"name": "get"}, ["get"], [3]])
def test_tools_that_are_not_json_schemas_are_unreadable(value: Any) -> None:
    with pytest.raises(SampleError, match="column 't'") as caught:
        tools_in(value, column="t")
    assert caught.value.status == "unreadable"
