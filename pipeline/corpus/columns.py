"""Whether a corpus can have the columns that a task or an annotation names."""

from collections.abc import Iterable

from catalogs import Corpus
from catalogs.shards import keeps_members
from catalogs.tars.members import KEY


def missing_columns(corpus: Corpus, names: Iterable[str]) -> list[str]:
    """Return those of `names` that no shard of the corpus can have.

    A column of a tar has more names than `corpus.columns` (`catalogs/tars/members.py`): whether a
    shard has it is known when it is read.
    """
    has_tars = any(keeps_members(kind) for kind in {shard.format for shard in corpus.shards})
    known = {column.lower().split(".")[0] for column in corpus.columns}

    def is_possible(name: str) -> bool:
        # Alternatives may be in different shards, and so in none of the common columns.
        return ";" in name or name == KEY or name.lower().split(".")[0] in known

    return [
        name
        for name in names
        if name not in corpus.columns and not (has_tars and is_possible(name))
    ]
