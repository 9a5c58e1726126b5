"""Spoiled answers: five ways in which collected or generated instructions are wrong."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import polars as pl

Random = np.random.Generator

# Values of the column `spoiled`, which nothing but the oracle and the tables may read.
UNSPOILED: Final = "none"
OTHER: Final = "other"
KINDS: Final = (OTHER, "cut", "repeated", "garbled", "numbers")
# Characters that a repetition fills: generated answers that repeat themselves do not end.
_REPEATED_CHARS: Final = 600


def spoil(rows: pl.DataFrame, *, share: float, seed: int = 0) -> pl.DataFrame:
    """Return rows with a share of the answers (`output`) spoiled, and how in the column `spoiled`.

    The kinds take turns. An answer that a kind does not change (one without numbers) becomes that
    of another question.
    """
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(rows))[: round(share * len(rows))].tolist()
    answers = rows["output"].to_list()
    spoiled, kinds = list(answers), [UNSPOILED] * len(answers)
    for number, place in enumerate(places):
        kind, answer = KINDS[number % len(KINDS)], answers[place]
        changed = answer if kind == OTHER else _WAYS[kind](answer, rng)
        if changed == answer:
            others = (answers[other] for other in _circle(places, number))
            kind, changed = OTHER, next(each for each in others if each != answer)
        spoiled[place], kinds[place] = changed, kind
    return rows.with_columns(output=pl.Series(spoiled), spoiled=pl.Series(kinds))


def _circle(places: list[int], number: int) -> Iterator[int]:
    """Yield all places, beginning after `number`."""
    yield from places[number + 1 :]
    yield from places[:number]


def cut(answer: str, _: Random) -> str:
    """Return the first third of the words."""
    words = answer.split(" ")
    return " ".join(words[: max(1, len(words) // 3)])


def repeat(answer: str, rng: Random) -> str:
    """Return a run of at most eight words, repeated for some hundred characters."""
    words = answer.split()
    start = int(rng.integers(max(1, len(words) - 8)))
    run = " ".join(words[start : start + 8]) + " "
    return (run * (_REPEATED_CHARS // len(run) + 2)).rstrip()


def garble(answer: str, rng: Random) -> str:
    """Return the answer with the letters of each word in a random order."""
    return re.sub(r"\w+", lambda word: "".join(rng.permutation(list(word[0]))), answer)


def change_numbers(answer: str, rng: Random) -> str:
    """Return the answer with other digits in the place of its digits."""
    return re.sub(r"\d", lambda digit: str((int(digit[0]) + rng.integers(1, 10)) % 10), answer)


_WAYS: Final[Mapping[str, Callable[[str, Random], str]]] = {
    "cut": cut,
    "repeated": repeat,
    "garbled": garble,
    "numbers": change_numbers,
}
