"""Mixtures: corpora of several named parts, whose weights are shares of the budget. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from annotated_types import Ge, Le, MinLen

from attent_select.errors import InputError

# Column of the samples with the name of their part.
NAME: Final = "name"


@dataclass(frozen=True)
class MixturePart:
    """One part of a corpus.

    Attributes:
        name: value of the column `name` of its samples.
        shards: URLs, folders or globs of its shards.
        weight: its share of the budget, in [0, 1]; parts without one divide the rest equally.
    """

    name: Annotated[str, MinLen(1)]
    shards: tuple[str, ...]
    weight: Annotated[float, Ge(0), Le(1)] | None = None


def with_mixture(values: Any) -> Any:
    """Return the values of a section `corpus` that is a list of parts, with all their shards."""
    parts = _parts_in(values)
    if parts is None:
        return values
    entries, every = list[Any](), list[Any]()
    for part in parts:
        if not isinstance(part, Mapping):
            entries.append(part)
            continue
        shards = part.get("shards", ())
        shards = [shards] if isinstance(shards, str) else shards
        entries.append({**part, "shards": shards})
        every += shards if isinstance(shards, Sequence) else ()  # the section says what is wrong
    rest = {} if isinstance(values, Sequence) else dict(values)
    return {**rest, "mixture": entries, "shards": rest.get("shards", every or None)}


def with_quotas(values: Any) -> Any:
    """Return the values of a configuration: weights of a mixture are the quotas by default.

    Raises:
        InputError: the weights exceed 1.
    """
    if not isinstance(values, Mapping):
        return values
    parts = _parts_in(values.get("corpus"))
    selection = values.get("selection")
    if parts is None or not isinstance(selection, Mapping):
        return values
    if not all(isinstance(part, Mapping) and isinstance(part.get(NAME), str) for part in parts):
        return values  # the section says what is wrong with them
    weights = {part[NAME]: part.get("weight") for part in parts}
    is_composed = selection.get("by") is not None or "quotas" in selection
    if is_composed or all(weight is None for weight in weights.values()):
        return values
    return {**values, "selection": {**selection, "by": NAME, "quotas": shares(weights)}}


def shares(weights: Mapping[str, float | None]) -> dict[str, float]:
    """Return the share of each part. Raises `InputError` if nothing is left for one."""
    known_weights = [weight for weight in weights.values() if isinstance(weight, int | float)]
    num_open = len(weights) - len(known_weights)
    rest = 1 - sum(known_weights)
    if num_open and rest <= 0:
        names = ", ".join(name for name, weight in weights.items() if weight is None)
        raise InputError(
            f"corpus: the weights add up to {sum(known_weights):g}, so that nothing is left for"
            f" {names}: lower them, or give every part a weight"
        )
    return {name: rest / num_open if weight is None else weight for name, weight in weights.items()}


def check_parts(parts: Sequence[MixturePart]) -> None:
    """Raise `InputError` for an empty list, a name that occurs twice, or a part without shards."""
    names = [part.name for part in parts]
    if not parts:
        raise InputError("expected at least one part, {name, shards, weight}")
    for part in parts:
        if names.count(part.name) > 1:
            raise InputError(f"two parts are named {part.name!r}: expected unique names")
        if not part.shards:
            raise InputError(f"part {part.name!r} has no shards: expected URLs, folders or globs")


def _parts_in(corpus: Any) -> Sequence[Any] | None:
    if isinstance(corpus, list | tuple):
        return corpus
    parts = corpus.get("mixture") if isinstance(corpus, Mapping) else None
    return parts if isinstance(parts, list | tuple) else None


def names_by_url(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Return URL → name of its part. Raises `InputError` if a shard is in two parts."""
    name_of: dict[str, str] = {}
    for name, url in pairs:
        if name_of.setdefault(url, name) != name:
            raise InputError(
                f"corpus: {url} is a shard of {name_of[url]!r} and of {name!r}: expected every"
                " shard in one part"
            )
    return name_of
