"""Clusters of linked samples are connected components, whatever the order of the links."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotation.linking import clusters_of

KEYS = st.integers(0, 12).map(lambda n: (n % 3) << 32 | n)


@given(st.lists(st.tuples(KEYS, KEYS).filter(lambda pair: pair[0] != pair[1])), st.randoms())
def test_clusters_are_those_of_a_union_find(links: list[tuple[int, int]], rng) -> None:  # type: ignore[no-untyped-def]
    parent = {key: key for pair in links for key in pair}

    def root(key: int) -> int:
        return key if parent[key] == key else root(parent[key])

    for one, other in links:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    members = {r: sorted(k for k in parent if root(k) == r) for r in map(root, parent)}
    expected = [
        (
            key >> 32,
            key & 2**32 - 1,
            root(key),
            members[root(key)].index(key),
            len(members[root(key)]),
        )
        for key in sorted(parent)
    ]
    shuffled = [
        pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(links, len(links))
    ]
    frame = pl.DataFrame(shuffled, schema={"key": pl.UInt64, "value": pl.Int64}, orient="row")
    first = rng.randint(0, len(frame))
    assert clusters_of([frame[:first], frame[first:]]).rows() == expected
