"""The journal of a span: how it leads to a poison sample after worker processes died."""

import json
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from catalogs.shard_format import Sample
from pipeline.scoring.journal import Journal, Suspects


def left_behind(path: Path) -> tuple[int, int]:
    first, end = json.loads(path.read_text())["rows"]
    return first, end


def numbered(rows: range) -> Iterator[tuple[int, Sample]]:
    for row in rows:
        yield row, {"number": row}


def test_rows_are_in_the_journal_from_before_they_are_tried_until_finished(
    tmp_path: Path,
) -> None:
    path = tmp_path / "span.json"
    journal = Journal(str(path))
    samples = journal.note_samples(numbered(range(20, 100)), window=30, end=100)
    assert next(samples)[0] == 20
    assert left_behind(path) == (20, 50)
    for _ in range(30):
        row, _ = next(samples)
    assert (row, left_behind(path)) == (50, (20, 80)), "nothing of the first window is finished"
    journal.note_finished(range(20, 45))
    assert [row for row, _ in samples] == list(range(51, 100))
    assert left_behind(path) == (45, 100), "no row beyond the end"
    journal.close()
    assert not path.exists()


def test_without_a_journal_there_are_no_suspects(tmp_path: Path) -> None:
    assert Journal(str(tmp_path / "none.json")).suspects == Suspects()
    assert Suspects().groups() == []


@given(st.integers(0, 1 << 20), st.integers(1, 10_000))
def test_groups_of_suspects_are_at_most_64_and_hold_every_row_once(first: int, count: int) -> None:
    groups = Suspects(rows=(first, first + count)).groups()
    assert len(groups) <= 64
    assert [row for group in groups for row in group] == list(range(first, first + count))


class DiedError(Exception):
    """The worker process died."""


def attempt(url: str, rows: range, killers: set[int], *, disturbed_at: int | None = None) -> int:
    """Probe and measure a span once; return the number of skipped rows."""
    journal = Journal(url)
    for group in journal.suspects.groups():
        journal.note_probe(group)
        if killers & set(group) - set(journal.suspects.killers):
            raise DiedError
    kept = (one for one in numbered(rows) if one[0] not in journal.suspects.killers)
    for row, _ in journal.note_samples(kept, window=256, end=rows.stop):
        if row in killers or row == disturbed_at:
            raise DiedError
        journal.note_finished(range(row - 1200, row - 1000))
    journal.close()
    return len(journal.suspects.killers)


@given(st.sets(st.integers(0, 4999), min_size=1, max_size=3))
def test_every_poison_sample_is_found_after_a_few_deaths(
    killers: set[int],
) -> None:
    url = f"memory://journals/{sorted(killers)}.json"
    deaths = 0
    while True:
        try:
            left_out = attempt(url, range(5000), killers)
        except DiedError:
            deaths += 1
            continue
        break
    assert left_out == len(killers)
    assert deaths <= 4 * len(killers)


def test_a_process_that_dies_for_another_reason_skips_no_row(tmp_path: Path) -> None:
    url = str(tmp_path / "span.json")
    for disturbed_at in (10, 700, 10, 999):
        try:
            attempt(url, range(1000), set(), disturbed_at=disturbed_at)
        except DiedError:
            continue
        raise AssertionError("it was ended")
    assert attempt(url, range(1000), set()) == 0


def test_a_row_that_was_alone_at_one_death_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "span.json"
    Journal(str(path)).note_probe(range(7, 8))
    assert Journal(str(path)).suspects == Suspects(rows=(7, 8), alone={7: 1})
    Journal(str(path)).note_probe(range(7, 8))
    assert Journal(str(path)).suspects == Suspects(alone={7: 2}, killers=(7,))
