"""Loss catalog: spans, parts, snapshots, and losses observed in training."""

import itertools
import pickle
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select import schema
from attent_select.errors import CorpusMismatchError, ExistsError, InputError, MissingError
from catalogs import Corpus, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses.catalog import PartSummary
from catalogs.shard_format import Shard

COUNTS = [4, 3, 5, 2]


@pytest.fixture
def run(tmp_path: Path) -> str:
    return with_corpus(str(tmp_path / "run"))


def with_corpus(run: str, *, etag: str = "e") -> str:
    shards = (
        Shard(shard_id, f"/d/{shard_id}.parquet", "parquet", count, 10, etag)
        for shard_id, count in enumerate(COUNTS)
    )
    Corpus(shards=tuple(shards), columns=("label",)).save(run)
    return run


def losses(
    shard_id: int, *, first: int = 0, count: int | None = None, plus: float = 0.0
) -> pl.DataFrame:
    """Rows of one shard: the loss of row r is 10 · shard + r + plus; row 1 is unreadable."""
    end = COUNTS[shard_id] if count is None else first + count
    bad = pl.col("row") == 1
    loss = pl.col("row").cast(pl.Float32) + 10 * shard_id + plus
    return pl.DataFrame({"row": range(first, end)}).select(
        pl.lit(shard_id).alias("shard_id"),
        "row",
        pl.when(~bad).then(loss).alias("loss"),
        pl.lit(1).alias("num_units"),
        pl.when(bad).then(pl.lit("unreadable")).otherwise(pl.lit("ok")).alias("status"),
        pl.lit(7).alias("measured_step"),
        pl.lit("scored").alias("origin"),
        pl.lit(0).alias("visits"),
    )


def part(
    catalog: LossCatalog, shard_ids: Sequence[int], *, round_number: int = 0, plus: float = 0.0
) -> PartSummary:
    names = [f"{round_number}-{shard_id}" for shard_id in shard_ids]
    for name, shard_id in zip(names, shard_ids, strict=True):
        catalog.write_span(name, losses(shard_id, plus=plus))
    return catalog.compact(names, round_number=round_number)


def observe(catalog: LossCatalog, round_number: int, rows: list[tuple[int, int]]) -> None:
    frame = pl.DataFrame(rows, schema=["shard_id", "row"], orient="row").with_columns(
        loss=0.5, num_units=1, step=3
    )
    catalog.write_observed(round_number, "steps", frame)


def visits(catalog: LossCatalog, round_number: int) -> dict[tuple[int, int], int]:
    rows = catalog.latest(round_number).select("shard_id", "row", "visits").collect().rows()
    return {(shard_id, row): count for shard_id, row, count in rows if count}


def test_a_published_round_is_one_dense_scan(run: str) -> None:
    catalog = LossCatalog(run)
    parts = [part(catalog, [0, 1]), part(catalog, [2, 3])]
    assert catalog.rounds() == []
    assert catalog.snapshot(0) is None
    with pytest.raises(MissingError, match="run `attent score` first"):
        catalog.latest()

    catalog.publish(0, parts, provenance={"checkpoint": "c"})
    rows = catalog.latest().collect()
    expected = pl.concat(losses(shard_id) for shard_id in range(4))
    assert rows.schema == pl.Schema(schema.LOSSES)
    assert rows["loss"].to_list() == expected["loss"].to_list()
    assert rows.select("shard_id", "row", "status").rows() == (
        expected.select("shard_id", "row", "status").rows()
    )
    assert catalog.rounds() == [0]
    assert catalog.provenance(0) == {"checkpoint": "c"}


def test_a_snapshot_has_the_location_and_statistics_of_each_shards_losses(run: str) -> None:
    catalog = LossCatalog(run)
    parts = [part(catalog, [0]), part(catalog, [1, 2, 3])]
    catalog.publish(0, pickle.loads(pickle.dumps(parts)), provenance={})
    snapshot = catalog.snapshot(0)
    assert snapshot is not None
    assert snapshot.schema == pl.Schema(schema.SNAPSHOT)
    assert snapshot.row(2, named=True) == {
        "shard_id": 2,
        "part": parts[1].part,
        "row_group": 1,
        "num_rows": 5,
        "num_ok": 4,
        "loss_min": 20.0,
        "loss_max": 24.0,
        "loss_sum": 20.0 + 22 + 23 + 24,
    }
    file = pq.ParquetFile(Layout(run).part(parts[1].part))
    assert file.read_row_group(1)["shard_id"].to_pylist() == [2] * 5


def test_publishing_deletes_only_its_own_spans_and_journals(run: str) -> None:
    catalog, layout = LossCatalog(run), Layout(run)
    parts = [part(catalog, [0, 1]), part(catalog, [2, 3])]
    catalog.write_span("another", losses(0))
    for left in ("0-2", "another"):  # by a worker that died before it could delete it
        storage.publish(layout.journal(left), b"{}")
    assert catalog.span_digests() == {"0-0", "0-1", "0-2", "0-3", "another"}
    catalog.publish(0, parts, provenance={})
    assert catalog.span_digests() == {"another"}
    journals = storage.list_objects(layout.journals)
    assert [one.url for one in journals] == [layout.journal("another")]


def test_a_shard_may_be_scored_in_several_spans(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.write_span("a", losses(0, first=0, count=3))
    catalog.write_span("b", losses(0, first=3, count=1))
    whole = part(catalog, [0])
    assert catalog.compact(["a", "b"], round_number=0).part == whole.part


def test_compaction_is_idempotent(run: str) -> None:
    catalog = LossCatalog(run)
    first = part(catalog, [0, 1])
    assert part(LossCatalog(run), [0, 1]) == first
    assert len(storage.list_objects(Layout(run).parts)) == 1


def test_gaps_overlaps_and_missing_spans_are_errors(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.write_span("start", losses(0, first=0, count=2))
    catalog.write_span("middle", losses(0, first=1, count=2))
    catalog.write_span("end", losses(0, first=3, count=1))
    with pytest.raises(InputError, match="shard 0 has 3 rows, but its last row is 3"):
        catalog.compact(["start", "end"], round_number=0)
    with pytest.raises(InputError, match="sorted"):
        catalog.compact(["start", "middle", "end"], round_number=0)
    with pytest.raises(MissingError, match=r"nothing\.parquet"):
        catalog.compact(["start", "nothing"], round_number=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": pl.lit(None, pl.Float32)}, "row 0 of shard 2 has loss None and status 'ok'"),
        ({"loss": pl.lit(float("nan"))}, "has loss nan and status 'ok'"),
        ({"loss": pl.lit(float("inf"))}, "has loss inf and status 'ok'"),
        ({"loss": pl.lit(1.0)}, "row 1 of shard 2 has loss 1.0 and status 'unreadable'"),
        ({"status": pl.lit("fine")}, "status 'fine'"),
        ({"status": pl.lit(None, pl.String), "loss": pl.lit(None, pl.Float32)}, "status None"),
        ({"row": pl.lit(0)}, "sorted by"),
        ({"row": pl.lit(-1)}, "span x: "),
    ],
)
def test_an_inconsistent_span_is_an_input_error(
    run: str, change: dict[str, pl.Expr], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LossCatalog(run).write_span("x", losses(2).with_columns(**change))
    with pytest.raises(InputError, match="'status' is missing"):
        LossCatalog(run).write_span("x", losses(2).drop("status"))


def test_a_round_needs_every_shard_once_with_all_its_rows(run: str) -> None:
    catalog = LossCatalog(run)
    parts = [part(catalog, [0, 1]), part(catalog, [2, 3])]
    with pytest.raises(InputError, match=r"missing \[2, 3\]"):
        catalog.publish(0, parts[:1], provenance={})
    with pytest.raises(InputError, match=r"duplicates \[1\]"):
        catalog.publish(0, [*parts, part(catalog, [1])], provenance={})
    catalog.write_span("short", losses(3, count=1))
    short = catalog.compact(["short"], round_number=0)
    with pytest.raises(InputError, match="shard 3 has 1 losses, but 2 samples"):
        catalog.publish(0, [parts[0], part(catalog, [2]), short], provenance={})
    assert catalog.rounds() == []


def test_a_published_round_can_only_be_published_again_unchanged(run: str) -> None:
    catalog = LossCatalog(run)
    parts = [part(catalog, range(4))]
    catalog.publish(0, parts, provenance={})
    catalog.publish(0, parts, provenance={})
    with pytest.raises(ExistsError, match="round 0 already has a snapshot"):
        catalog.publish(0, [part(catalog, range(4), plus=0.5)], provenance={})


def test_the_latest_losses_are_those_of_the_newest_round_up_to_the_given_one(run: str) -> None:
    catalog = LossCatalog(run)
    for round_number in (0, 3):
        one = part(catalog, range(4), round_number=round_number, plus=round_number)
        catalog.publish(round_number, [one], provenance={})

    def first_loss(round_number: int | None) -> float:
        return float(catalog.latest(round_number).select("loss").head(1).collect().item())

    assert [first_loss(round_number) for round_number in (0, 2, 3, 9, None)] == [0, 0, 3, 3, 3]
    with pytest.raises(MissingError, match="up to round -1"):
        catalog.latest(-1)


def test_shards_that_were_not_scored_again_keep_their_losses_in_order(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.publish(0, [part(catalog, range(4))], provenance={})
    catalog.publish(1, [part(catalog, [1, 2], round_number=1, plus=0.5)], provenance={}, keep=0)
    rows = catalog.latest(1).collect()
    assert rows["shard_id"].to_list() == [s for s, count in enumerate(COUNTS) for _ in range(count)]
    assert rows.filter(pl.col("row") == 0)["loss"].to_list() == [0.0, 10.5, 20.5, 30.0]
    assert catalog.latest(1).select(pl.len()).collect().item() == sum(COUNTS)


@given(cuts=st.sets(st.integers(1, 3)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
def test_the_digest_covers_the_losses_and_not_the_files(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int]
) -> None:
    catalog = LossCatalog(with_corpus(str(tmp_path_factory.mktemp("run"))))
    bounds = [0, *sorted(cuts), 4]
    parts = [part(catalog, range(first, end)) for first, end in itertools.pairwise(bounds)]
    catalog.publish(0, parts, provenance={"cuts": sorted(cuts)})
    assert catalog.digest(0) == "3b6805d2762e36a73dc14a39896387cc"


def test_the_digest_distinguishes_losses_units_and_statuses(tmp_path: Path) -> None:
    changes: list[dict[str, pl.Expr]] = [
        {},
        {"loss": pl.col("loss") * 1.000001},
        {"num_units": pl.lit(2)},
        {"status": pl.col("status").replace({"unreadable": "oom"})},
    ]
    digests = set()
    for position, change in enumerate(changes):
        catalog = LossCatalog(with_corpus(str(tmp_path / str(position))))
        for shard_id in range(4):
            catalog.write_span(str(shard_id), losses(shard_id).with_columns(**change))
        one = catalog.compact(list("0123"), round_number=0)
        catalog.publish(0, [one], provenance={})
        digests.add(catalog.digest(0))
    assert len(digests) == len(changes)


def test_carried_columns_are_read_even_if_the_reader_does_not_name_them(run: str) -> None:
    catalog = LossCatalog(run, carry={"source": pl.String})
    with pytest.raises(InputError, match="'source' is missing"):
        catalog.write_span("x", losses(0))
    for shard_id in range(4):
        rows = losses(shard_id).with_columns(source=pl.lit(f"book {shard_id}"))
        catalog.write_span(str(shard_id), rows)
    catalog.publish(0, [catalog.compact(list("0123"), round_number=0)], provenance={})
    counts = LossCatalog(run).latest().group_by("source").len().sort("source").collect()
    assert counts.rows() == [(f"book {s}", count) for s, count in enumerate(COUNTS)]


def test_visits_count_training_before_the_round(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.publish(0, [part(catalog, range(4))], provenance={})
    assert visits(catalog, 0) == {}
    observe(catalog, 0, [(2, 4), (0, 0), (2, 4)])
    observe(catalog, 1, [(2, 4), (3, 1)])
    two = [part(catalog, ids, round_number=2) for ids in ([0, 1], [2, 3])]
    catalog.publish(2, two, provenance={})
    assert visits(catalog, 2) == {(0, 0): 1, (2, 4): 3, (3, 1): 1}
    observe(catalog, 2, [(0, 0)])
    catalog.publish(3, [part(catalog, range(4), round_number=3)], provenance={})
    assert visits(catalog, 3) == {(0, 0): 2, (2, 4): 3, (3, 1): 1}


def test_a_shard_that_kept_its_losses_keeps_its_visits(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.publish(0, [part(catalog, range(4))], provenance={})
    observe(catalog, 0, [(0, 0), (1, 0)])
    catalog.publish(1, [part(catalog, [1, 2, 3], round_number=1)], provenance={}, keep=0)
    observe(catalog, 1, [(0, 0), (1, 0)])
    catalog.publish(2, [part(catalog, range(4), round_number=2)], provenance={})
    assert visits(catalog, 2) == {(0, 0): 2, (1, 0): 2}


def test_observed_losses_are_read_as_written_and_writing_is_idempotent(run: str) -> None:
    catalog = LossCatalog(run)
    assert catalog.observed_losses().collect().schema == pl.Schema(schema.OBSERVED_LOSSES)
    for _ in range(2):
        observe(catalog, 4, [(2, 4), (0, 0)])
    observe(catalog, 5, [(3, 1)])
    assert catalog.observed_losses(4).select("shard_id", "row").collect().rows() == [(0, 0), (2, 4)]
    assert catalog.observed_losses().select(pl.len()).collect().item() == 3
    assert catalog.observed_losses(6).collect().is_empty()


def test_losses_of_another_corpus_are_a_mismatch(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.publish(0, [part(catalog, range(4))], provenance={})
    with_corpus(run, etag="changed")
    with pytest.raises(CorpusMismatchError, match=r"the snapshot .*00000\.parquet was made from"):
        LossCatalog(run).latest()


def test_a_part_records_its_corpus_round_and_checkpoint(run: str) -> None:
    catalog = LossCatalog(run)
    catalog.write_span("a", losses(0))
    one = catalog.compact(["a"], round_number=6, provenance={"checkpoint": "c"})
    notes = pq.read_metadata(Layout(run).part(one.part)).metadata[b"attent_select"].decode()
    for text in (catalog.corpus.corpus_id, '"round": 6', '"checkpoint": "c"', "schema_version"):
        assert text in notes
