"""The kind `contamination`: samples that are held-out examples, or near duplicates of one."""

import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attent_select.errors import InputError
from trainers.annotation import FitContext, Samples
from trainers.annotations.contamination import Contamination

WORDS = random.Random(0).choices([f"word{n}" for n in range(500)], k=2000)


def story(number: int) -> list[str]:
    return WORDS[100 * number : 100 * number + 90]


def changed(words: list[str]) -> str:
    """The words with two of them replaced: 90 % of the runs of five words are the same."""
    return " ".join([*words[:40], "other", *words[41:80], "another", *words[81:]])


def seen(kind: Contamination, corpus: Samples, *examples: Samples) -> list[tuple[Any, ...]]:
    """Value, `exact` and status of each sample."""

    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield corpus

    context = FitContext(None, pool_sample, examples=lambda: iter(examples))
    rows = kind.measure(corpus, kind.fit(context)).rows
    return rows.select("value", "exact", "status").rows()


def picture(seed: int, *, size: int = 96) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_equal_texts_and_near_duplicates_of_any_batch_of_examples_are_found() -> None:
    texts = [" ".join(story(0)), changed(story(1)), " ".join(story(2)).upper() + "\n", None]
    corpus = {"text": [*texts, " ".join(story(3))]}
    batches = [{"text": [" ".join(story(n)), None]} for n in (1, 2, 4)]
    near = [(False, False, "ok"), (True, False, "ok"), (True, True, "ok"), (None, None, "empty")]
    assert seen(Contamination(), corpus, *batches) == [*near, (False, False, "ok")]
    exact = seen(Contamination(near=False), corpus, *batches)
    assert [value for value, *_ in exact] == [False, False, True, None, False]


def test_images_that_look_the_same_are_found() -> None:
    corpus = {"image": [picture(1, size=160), picture(2), picture(3), {"bytes": picture(3)}]}
    examples = {"image": [picture(1), {"bytes": picture(3), "path": None}]}
    rows = seen(Contamination("image"), corpus, examples)
    assert [row[:2] for row in rows] == [(True, False), (False, False), (True, True), (True, True)]


def test_of_several_columns_all_are_compared() -> None:
    corpus = {"prompt": ["one two", "one two"], "answer": ["three", "four"]}
    examples = {"prompt": ["One two"], "answer": ["four"]}
    rows = seen(Contamination(("prompt", "answer")), corpus, examples)
    assert [value for value, *_ in rows] == [False, True]


def test_chats_are_compared_by_what_their_messages_say() -> None:
    chat = [{"role": "user", "content": " ".join(story(0))}, {"role": "assistant", "content": "x"}]
    shared = [{"from": "human", "value": changed(story(0))}, {"from": "gpt", "value": "x"}]
    rows = seen(Contamination("chat"), {"chat": [chat, shared]}, {"chat": [chat]})
    assert [row[:2] for row in rows] == [(True, True), (True, False)]


def test_a_target_of_another_modality_or_without_examples_is_refused() -> None:
    with pytest.raises(InputError, match="image in the target and text in the corpus"):
        seen(Contamination(), {"text": ["a b c"]}, {"text": [picture(1)]})
    with pytest.raises(InputError, match="give --target"):
        Contamination().fit(FitContext(None, lambda _: iter([{"text": ["a"]}])))
