"""Operators of SQL whose operand polars repeats, inside one another: each of them multiplies it."""

import re
from dataclasses import dataclass
from typing import Final

# The operand of IN is compared with each value, that of BETWEEN twice, that of CASE with each WHEN.
_TOKEN: Final = re.compile(
    r"(?P<open>\()|(?P<close>\))|(?P<separator>,)|\b(?P<word>in|between|case|when|then|else|end|and|or)\b",
    re.IGNORECASE,
)


@dataclass
class _Level:
    """What is inside a pair of parentheses, or CASE and END.

    Attributes:
        start: position after what opened it.
        is_case: whether CASE opened it, and no WHEN has followed.
        repeats: operators inside one another in the operand that is read.
        most: the same of all operands so far.
        num_between: BETWEEN whose AND has not been read.
    """

    start: int
    is_case: bool = False
    repeats: int = 0
    most: int = 0
    num_between: int = 0

    def repeat(self) -> None:
        self.repeats += 1
        self.most = max(self.most, self.repeats)

    def include(self, inner: "_Level") -> None:
        self.repeats = max(self.repeats, inner.most)
        self.most = max(self.most, self.repeats)


def num_repeats(text: str) -> int:
    """Return how many of IN, BETWEEN and CASE are operands of one another at most.

    Strings must be empty in `text`. With comments, no operand is seen to end.
    """
    has_comments = "--" in text or "/*" in text
    levels = [_Level(0)]
    for token in _TOKEN.finditer(text):
        word = (token["word"] or "").lower()
        level = levels[-1]
        if token["open"] or word == "case":
            levels.append(_Level(token.end(), is_case=word == "case"))
        elif token["close"] or word == "end":
            if len(levels) > 1:
                levels.pop()
                levels[-1].include(level)
        elif word in ("in", "between"):
            level.num_between += word == "between"
            level.repeat()
        elif word == "and" and level.num_between:
            level.num_between -= 1
        else:
            if word == "when" and level.is_case and text[level.start : token.start()].strip():
                level.repeat()
            level.is_case = False
            level.repeats = level.repeats if has_comments else 0
    while len(levels) > 1:
        inner = levels.pop()
        levels[-1].include(inner)
    return levels[0].most
