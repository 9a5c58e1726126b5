"""The walk through a corpus, in blocks of rows or of whole row groups."""

from dataclasses import dataclass, field

import numpy as np

from attent_select.schedule.budget import Pool
from attent_select.schedule.candidate_walk import CandidateWalk, Numbers
from catalogs import Corpus
from catalogs.concurrency import ordered_map
from catalogs.shards import format_named


def walk_of(corpus: Corpus, *, pool: Pool, seed: int) -> CandidateWalk:
    """Return the walk; the blocks of row groups have the size of the first one."""
    if pool.block_rows != "row_group":
        return CandidateWalk(corpus.shard_rows, pool.block_rows, seed)
    edges = _RowGroupEdges(corpus)
    return CandidateWalk(corpus.shard_rows, int(edges.of(0)[1]), seed, edges.next_edge)


@dataclass(frozen=True)
class _RowGroupEdges:
    """The first rows of the row groups, from the footers of the shards that are visited."""

    corpus: Corpus
    _known: dict[int, Numbers] = field(default_factory=dict)

    def next_edge(self, shards: Numbers, rows: Numbers) -> Numbers:
        """Return for each row the first of a row group at or after it, int64[n].

        After the last row group it is the number of rows of the shard.
        """
        order = np.argsort(shards, kind="stable")
        visited, first = np.unique(shards[order], return_index=True)
        unknown = [shard for shard in visited.tolist() if shard not in self._known]
        self._known.update(zip(unknown, ordered_map(self.of, unknown, num_threads=16), strict=True))
        edges_after = np.empty_like(rows)
        for shard, places in zip(visited.tolist(), np.split(order, first[1:]), strict=True):
            edges = self._known[shard]
            edges_after[places] = edges[np.searchsorted(edges, rows[places])]
        return edges_after

    def of(self, shard_id: int) -> Numbers:
        """Return the first rows of the row groups of a shard, and its number of rows."""
        shard = self.corpus.shard(shard_id)
        starts = format_named(shard.format).row_groups(shard)
        return np.array([*starts, shard.num_samples], np.int64)
