"""Samples without a loss: counts and examples that do not depend on the order of counting."""

from hypothesis import given
from hypothesis import strategies as st

from catalogs.losses.unusable import MAX_CAUSES, Example, Unusable

REASONS = ["column 'a' is empty", "column 'b' is empty", "12 tokens", "7 tokens", "no role"]

examples = st.builds(
    Example,
    shard=st.sampled_from(["a.parquet", "b.parquet"]),
    row=st.integers(0, 50),
    status=st.sampled_from(["empty", "too_long"]),
    reason=st.sampled_from(REASONS),
)


def counted(samples: list[Example]) -> Unusable:
    result = Unusable()
    for sample in samples:
        result.add(sample)
    return result


@given(st.lists(examples, unique_by=lambda each: (each.shard, each.row)), st.randoms())
def test_counts_and_examples_are_the_same_in_any_order_and_division(
    samples: list[Example], random: object
) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    middle = len(shuffled) // 2
    merged = Unusable.of(counted(shuffled[:middle]).to_dict())
    merged.update(counted(shuffled[middle:]))
    assert merged == counted(samples)


def test_each_cause_has_its_first_sample_as_an_example() -> None:
    samples = [
        Example("b.parquet", 3, "empty", "column 'x' is empty"),
        Example("a.parquet", 9, "empty", "column 'y' is empty"),
        Example("a.parquet", 4, "too_long", "more than 512 tokens"),
        Example("a.parquet", 5, "too_long", "more than 64 tokens"),
    ]
    assert str(counted(samples)) == (
        "2 empty, 2 too_long; for example row 4 of a.parquet: more than 512 tokens (too_long); "
        "row 9 of a.parquet: column 'y' is empty (empty)"
    )
    assert str(Unusable()) == "none"


def test_a_status_with_many_causes_does_not_hide_another() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    samples = [Example("a", row, "unreadable", letter) for row, letter in enumerate(letters)]
    found = counted([*samples, Example("b", 0, "empty", "no token counts")])
    assert found.counts == {"unreadable": 26, "empty": 1}
    assert [each.status for each in found.examples] == ["unreadable"] * MAX_CAUSES + ["empty"]
