"""LRU cache bounded in bytes."""

from hypothesis import given
from hypothesis import strategies as st

from catalogs.tables.byte_cache import BoundedCache


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: BoundedCache[str] = BoundedCache(max_bytes=10)
    for key in "ab":
        cache.put(key, key.upper(), num_bytes=5)
    assert cache.get("a") == "A"
    cache.put("c", "C", num_bytes=5)
    assert [cache.get(key) for key in "abc"] == ["A", None, "C"]


def test_a_value_larger_than_the_cache_is_returned_but_not_stored() -> None:
    cache: BoundedCache[str] = BoundedCache(max_bytes=10)
    assert cache.get_or_load("big", lambda: "BIG", size_of=lambda _: 11) == "BIG"
    assert cache.get("big") is None


def test_a_value_is_loaded_once() -> None:
    cache: BoundedCache[int] = BoundedCache(max_bytes=10)
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return 7

    for _ in range(3):
        assert cache.get_or_load("x", load, size_of=lambda _: 1) == 7
    assert loads == [1]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))))
def test_the_cache_never_exceeds_its_limit(puts: list[tuple[int, int]]) -> None:
    cache: BoundedCache[int] = BoundedCache(max_bytes=10)
    for key, size in puts:
        cache.put(key, size, num_bytes=size)
        assert sum(cache.get(kept) or 0 for kept in range(6)) <= 10
        assert cache.get(key) == (size if size <= 10 else None)
