"""Shortened models: which fields change, and that the result is a model."""

from typing import Any

import pytest
from digits import TASK, VIT
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pilot.small_model import small_fields

LLAMA = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "head_dim": 64,
}


def test_a_large_model_keeps_its_heads_and_loses_width_and_layers() -> None:
    assert small_fields(LLAMA) == {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 512,
    }


@pytest.mark.parametrize(
    ("replaced", "changed"),
    [
        ({"hidden_size": 64, "num_hidden_layers": 2, "head_dim": None}, set()),
        ({"hidden_size": 64, "head_dim": None}, {"num_hidden_layers"}),
        ({"head_dim": 128}, {"num_hidden_layers"}),
        ({"hidden_size": [64, 128]}, {"num_hidden_layers"}),
    ],
)
def test_what_does_not_fit_or_is_small_stays(replaced: dict[str, Any], changed: set[str]) -> None:
    assert small_fields(LLAMA | replaced).keys() == changed


@given(st.integers(1, 6), st.sampled_from([16, 32, 64, 96, 128, 256]), st.integers(1, 8))
def test_a_shortened_model_can_be_built(groups: int, of_head: int, key_heads: int) -> None:
    heads = groups * key_heads
    known = {"hidden_size": heads * of_head, "num_attention_heads": heads}
    known |= {"num_key_value_heads": key_heads, "num_hidden_layers": 7, "intermediate_size": 64}
    small = known | small_fields(known)
    assert small["hidden_size"] <= max(128, of_head)
    assert small["hidden_size"] == small["num_attention_heads"] * of_head
    assert small["num_attention_heads"] % small["num_key_value_heads"] == 0


def test_a_vision_transformer_is_shortened() -> None:
    config = VIT["config"] | {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 6}
    large = TASK.models({"config": config})
    fields = small_fields(large.without_weights().config.to_dict())  # type: ignore[attr-defined]
    small: Any = TASK.models({"config": config | fields}).build(0)
    assert small.config.hidden_size == 128
    assert small.config.num_hidden_layers == 4
