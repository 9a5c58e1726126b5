"""Random walk through the rows of a corpus: the candidates of a pool are the next rows of the walk.

The walk goes through blocks of rows that are next to each other in storage, in an order that is
computed place by place and never stored, and through the rows of each block in random order. A pass
visits every row once; the next pass has another order. A walk that is continued at a place draws
the same rows as one that never stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from attent_select.errors import TooFewError
from attent_select.schema import numpy_sample_key
from attent_select.stats.permutation import permute
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key

Numbers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]
# Marks the rows (shard_id u32[n], row u32[n]) that may be drawn: bool[n].
IsEligible = Callable[[Ids, Ids], npt.NDArray[np.bool_]]
# Returns for each row (shard int64[n], row int64[n]) the first at or after it where a block may
# begin, int64[n]; of the number of rows of a shard, this number.
NextEdge = Callable[[Numbers, Numbers], Numbers]

# Rows that are looked at together, at least.
_MIN_ROWS = 1 << 16
_MAX_ROWS = 1 << 22


@dataclass(frozen=True)
class Place:
    """Where a walk stands: before the row `row` in the random order of a block of a pass.

    Attributes:
        pass_number: pass over the rows, from 0.
        block: position in the order of blocks of the pass.
        row: position in the order of rows of the block; rows that may not be drawn count as well.
        num_shards: shards of the corpus when the pass began. Shards that came later are visited in
            the next pass.
    """

    pass_number: int = 0
    block: int = 0
    row: int = 0
    num_shards: int | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Drawn rows in (shard_id, row) order, and where the walk continues."""

    shards: Ids
    rows: Ids
    place: Place


@dataclass(frozen=True, eq=False)
class CandidateWalk:
    """A walk over shards of `shard_rows` rows, in blocks of at most `block_rows`.

    With `next_edge`, a block has the rows between the edges at or after its first row and that of
    the next block: all row groups that begin in it, or none.
    """

    shard_rows: Numbers
    block_rows: int
    seed: int
    next_edge: NextEdge | None = None

    def draw(
        self, num_rows: int, *, start: Place, is_eligible: IsEligible | None = None
    ) -> Candidates:
        """Draw the next `num_rows` rows that may be drawn, no row twice.

        A draw that continues in another pass leaves out the rows that it has already.

        Raises:
            TooFewError: fewer rows may be drawn.
        """
        place = self._in_corpus(start)
        first_pass, pieces, missing = place.pass_number, [np.zeros(0, np.uint64)], num_rows
        known = pieces[0]  # rows of the pass before, which this pass may visit again
        while missing:
            drawn, after = self._draw_some(missing, place, known=known, is_eligible=is_eligible)
            pieces.append(drawn)
            missing -= len(drawn)
            if missing and after.pass_number > place.pass_number:
                known = np.concatenate(pieces)
                if place.pass_number > first_pass:  # a whole pass was not enough
                    raise TooFewError(
                        f"{num_rows} candidates are asked for, {len(known)} rows are eligible",
                        eligible=len(known),
                    )
            place = after
        keys = np.sort(np.concatenate(pieces))
        shards = (keys >> np.uint64(32)).astype(np.uint32)
        return Candidates(shards, keys.astype(np.uint32), place)

    def _in_corpus(self, place: Place) -> Place:
        """Return the place with the shards of its pass; a pass that is over has no place."""
        num_shards = len(self.shard_rows) if place.num_shards is None else place.num_shards
        if place.block < self._num_blocks(num_shards):
            return Place(place.pass_number, place.block, place.row, num_shards)
        return Place(place.pass_number + 1, 0, 0, len(self.shard_rows))

    def _draw_some(
        self,
        num_rows: int,
        place: Place,
        *,
        known: npt.NDArray[np.uint64],
        is_eligible: IsEligible | None,
    ) -> tuple[npt.NDArray[np.uint64], Place]:
        """Return the keys of up to `num_rows` rows of the next blocks of the pass, as drawn."""
        assert place.num_shards is not None
        num_blocks = self._num_blocks(place.num_shards)
        many = min(max(num_rows, _MIN_ROWS), _MAX_ROWS)
        end = min(place.block + -(-many // self.block_rows), num_blocks)
        positions = np.arange(place.block, end)
        blocks = permute(
            positions, size=num_blocks, key=stream_key(self.seed, Purpose.BLOCKS, place.pass_number)
        )
        shards, rows, block_of = self._rows_of(blocks, key=place.pass_number)
        # Number of each row in its block; the first block may have been drawn from before.
        sizes = np.bincount(block_of, minlength=len(blocks))
        number = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        is_drawn = (block_of > 0) | (number >= place.row)
        if is_eligible is not None:
            is_drawn &= is_eligible(shards, rows)
        keys = numpy_sample_key(shards, rows)
        if len(known):
            is_drawn &= ~np.isin(keys, known)
        drawn = np.flatnonzero(is_drawn)[:num_rows]
        if len(drawn) == num_rows:
            last = int(drawn[-1])
            after = Place(
                place.pass_number,
                place.block + int(block_of[last]),
                int(number[last]) + 1,
                place.num_shards,
            )
            return keys[drawn], after
        return keys[drawn], self._in_corpus(Place(place.pass_number, end, 0, place.num_shards))

    def _rows_of(self, blocks: Numbers, *, key: int) -> tuple[Ids, Ids, Numbers]:
        """Return shard_id, row and position in `blocks` of all rows, random inside each block."""
        shard = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        first = (blocks - self._first_blocks[shard]) * self.block_rows
        end = np.minimum(first + self.block_rows, self.shard_rows[shard])
        if self.next_edge is not None:
            first, end = self.next_edge(shard, first), self.next_edge(shard, end)
        sizes = end - first
        block_of = np.repeat(np.arange(len(blocks)), sizes)
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        shards = shard.astype(np.uint32)[block_of]
        rows = (first[block_of] + offsets).astype(np.uint32)
        random = numpy_bits(
            stream_key(self.seed, Purpose.BLOCK_ROWS, key), numpy_sample_key(shards, rows)
        )
        order = np.lexsort((random, block_of))
        return shards[order], rows[order], block_of[order]

    def _num_blocks(self, num_shards: int) -> int:
        return int(self._first_blocks[num_shards])

    @cached_property
    def _first_blocks(self) -> Numbers:
        """The number of the first block of each shard, and of all blocks: int64[shards + 1]."""
        return np.concatenate([[0], np.cumsum(-(-self.shard_rows // self.block_rows))])
