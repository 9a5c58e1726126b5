"""Member index of a tar file in memory, and the columns that its members form.

The column of `000012.image.png` is `image`, its type `png`; a single extension (`a.cls`) is both.
Where that would give two members of a sample one column (`a.jpg` and `a.jpg.json`), the column has
the whole extension as its name, as in the webdataset library: `jpg` and `jpg.json`.

A column can be named in more ways, none of which changes what a shard has:

    jpg;jpeg;png    the first of these that the sample has
    image.png       by the whole extension
    json.label.id   a value inside of a JSON member
    __key__         the key of the sample
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attent_select import schema
from attent_select.errors import InputError

Positions = npt.NDArray[np.int64]
# The name of the column of keys, as in the webdataset library.
KEY = "__key__"


@dataclass(frozen=True)
class Alternative:
    """Extensions (positions in `Members.exts`) that a requested column is read from.

    `path` leads to a value inside of a JSON member.
    """

    exts: tuple[int, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """Members to read, int64[n] each: positions of members, of columns, and of alternatives."""

    members: Positions
    columns: Positions
    alternatives: Positions


@dataclass(frozen=True)
class Members:
    """Member index in memory, in the order of the tar file.

    `rows`, `offsets` and `sizes` of the data, and `codes` (positions in `exts`) are int64[members];
    `exts` are the extensions in the shard, `columns` and `kinds` the column and type of each, and
    `keys` those of the samples.
    """

    rows: Positions
    offsets: Positions
    sizes: Positions
    codes: Positions
    exts: list[str]
    columns: list[str]
    kinds: list[str]
    keys: pa.StringArray

    @classmethod
    def of(cls, table: pa.Table) -> "Members":
        """Make an index of a table (`schema.MEMBERS`)."""
        encoded = table["ext"].combine_chunks().dictionary_encode()
        # Indexes of earlier versions have extensions as they are written.
        lowered = [ext.lower() for ext in encoded.dictionary.to_pylist()]
        exts = list(dict.fromkeys(lowered))
        code_of = np.array([exts.index(ext) for ext in lowered], dtype=np.int64)
        rows = table[schema.ROW].to_numpy().astype(np.int64)
        codes = code_of[encoded.indices.to_numpy()] if len(rows) else np.zeros(0, np.int64)
        return cls(
            rows=rows,
            offsets=table["offset"].to_numpy().astype(np.int64),
            sizes=table["num_bytes"].to_numpy().astype(np.int64),
            codes=codes,
            exts=exts,
            columns=_columns(exts, rows, codes),
            kinds=[ext.rpartition(".")[2] for ext in exts],
            keys=table["key"].combine_chunks().take(np.flatnonzero(np.diff(rows, prepend=-1))),
        )

    @property
    def num_samples(self) -> int:
        return int(self.rows[-1]) + 1 if len(self.rows) else 0

    @property
    def num_bytes(self) -> int:
        """Approximate memory of this index."""
        return self.rows.nbytes * 4 + int(self.keys.nbytes)

    @property
    def unique_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.columns))

    def resolve(self, columns: Sequence[str], *, url: str) -> list[list[Alternative]]:
        """Return where each of `columns` is read from, best first.

        Raises:
            InputError: the shard has nothing of that name.
        """
        return [self._alternatives(name, url=url) for name in columns]

    def _alternatives(self, name: str, *, url: str) -> list[Alternative]:
        parts = dict.fromkeys((name, *map(str.strip, name.split(";"))))
        alternatives = [one for part in parts if (one := self._alternative(part)) is not None]
        if not alternatives:
            known = ", ".join(sorted(set(self.columns)))
            raise InputError(
                f"{url} has no column {name!r}: it has {known}. Correct the column names of the"
                " task"
            )
        return alternatives

    def _alternative(self, name: str) -> Alternative | None:
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            if exts := self._exts_named(".".join(parts[:length])):
                path = tuple(parts[length:])
                is_readable = not path or {self.kinds[k] for k in exts} == {"json"}
                return Alternative(exts, path) if is_readable else None
        return None

    def _exts_named(self, name: str) -> tuple[int, ...]:
        for spelling in dict.fromkeys((name, name.lower())):
            for names in (self.columns, self.exts):
                if spelling in names:
                    return tuple(k for k, each in enumerate(names) if each == spelling)
        return ()

    def choose(self, rows: Positions, resolved: Sequence[Sequence[Alternative]]) -> Chosen:
        """Return the members of the samples at `rows`: one for each column that a sample has."""
        # The members of a sample are consecutive, in the order of the rows.
        first, last = (np.searchsorted(self.rows, rows, side=side) for side in ("left", "right"))
        counts = last - first
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        members = np.repeat(first, counts) + offsets
        codes = self.codes[members]
        picks = [
            (members[np.isin(codes, alternative.exts)], column, position)
            for column, alternatives in enumerate(resolved)
            for position, alternative in enumerate(alternatives)
        ]
        chosen = np.concatenate([np.zeros(0, np.int64), *(pick[0] for pick in picks)])
        sizes = [len(pick[0]) for pick in picks]
        columns = np.repeat(np.array([pick[1] for pick in picks], np.int64), sizes)
        positions = np.repeat(np.array([pick[2] for pick in picks], np.int64), sizes)
        order = np.lexsort((positions, columns, self.rows[chosen]))
        chosen, columns, positions = chosen[order], columns[order], positions[order]
        pairs = self.rows[chosen] * max(len(resolved), 1) + columns
        is_best = np.append(True, pairs[1:] != pairs[:-1]) if len(pairs) else np.zeros(0, bool)
        return Chosen(chosen[is_best], columns[is_best], positions[is_best])


def _columns(exts: Sequence[str], rows: Positions, codes: Positions) -> list[str]:
    """Return the column of each extension: without its type, unless that would be ambiguous."""
    short = [ext.rpartition(".")[0] or ext for ext in exts]
    names = list(dict.fromkeys(short))
    short_of = np.array([names.index(name) for name in short], dtype=np.int64)
    pairs = np.sort(rows * max(len(names), 1) + short_of[codes]) if len(rows) else rows
    twice = pairs[1:][pairs[1:] == pairs[:-1]] % max(len(names), 1)
    ambiguous = {names[k] for k in np.unique(twice)}
    ambiguous |= {name for name in names if name in exts and short.count(name) > 1}
    return [ext if name in ambiguous else name for ext, name in zip(exts, short, strict=True)]
