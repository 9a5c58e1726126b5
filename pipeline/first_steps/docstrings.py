"""Descriptions of settings, from the docstrings of their classes."""

import inspect
import re

_ATTRIBUTE = re.compile(r"([\w, ]+): (.*)")


def first_sentence(text: str) -> str:
    """Return what a docstring says before its first empty line, as one line."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def described_attributes(docstring: str) -> dict[str, str]:
    """Return the attributes in a docstring's section `Attributes:` with their descriptions."""
    _, heading, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    if not heading:
        return {}
    described: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if not line.startswith("    "):
            if line:
                break
            continue
        text = line.removeprefix("    ")
        start = None if text.startswith(" ") else _ATTRIBUTE.fullmatch(text)
        if start is not None:
            names = start[1].split(", ")
            described |= dict.fromkeys(names, start[2])
        else:
            described |= {name: f"{described[name]} {text.strip()}" for name in names}
    return described


def attributes_of(cls: type) -> dict[str, str]:
    """Return the described attributes of a class and of the classes that it inherits from."""
    described: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        described |= described_attributes(each.__doc__ or "")
    return described
