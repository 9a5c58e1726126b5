"""The candidates of a round as a loss table: what a round with a pool chooses from."""

from collections.abc import Iterator
from functools import partial

import polars as pl

from attent_select.errors import MissingError
from attent_select.schedule.rounds import Round
from attent_select.schema import NUM_UNITS, ROW, SHARD_ID
from attent_select.selection.chunks import FrameChunks
from catalogs import IndexFile
from catalogs.annotations.columns import AnnotationColumns
from catalogs.losses import pools
from catalogs.losses.method import check_same, method_of
from pipeline.candidates.draw import draw_candidates
from pipeline.runs.state import Run
from pipeline.selection.loss_tables import LossTable

_IDS = (SHARD_ID, ROW)


def pool_table(run: Run, round_: Round, columns: tuple[str, ...]) -> LossTable:
    """Return the candidates with their losses, where the selection needs them, and annotations.

    They are held in memory. With `keep_rounds`, candidates of earlier rounds that were not taken
    are among them, with the loss that they had.

    Raises:
        MissingError: the selection needs losses and the round was not scored.
    """
    candidates = draw_candidates(run, round_)
    needs_losses = run.needs_losses(round_)
    if needs_losses:
        _check_scored(run, round_)
        pieces = [_fresh_losses(run, round_, number) for number in _kept_rounds(run, round_)]
        rows = pl.concat([*pieces, pools.pool_losses(run.catalog, round_.number).frame().collect()])
    else:
        pieces = [_fresh_ids(run, number) for number in _kept_rounds(run, round_)]
        rows = pl.concat([*pieces, candidates.frame().select(_IDS).collect()])
    # A row that a later pass has drawn again counts once, as it was measured last.
    rows = rows.unique(_IDS, keep="last").sort(_IDS)
    names = [name for name in columns if name not in rows.columns]
    annotations = AnnotationColumns.of(run.config.run, names)
    if NUM_UNITS in names:
        annotations = annotations.with_units()
    for frame in _annotation_rows(annotations, rows):
        rows = rows.join(frame, on=_IDS, how="left", maintain_order="left")
    return LossTable(
        run.config.run,
        (candidates.url,),
        FrameChunks(rows.lazy()),
        None,
        run.catalog,
        annotations=annotations.digests,
    )


def _check_scored(run: Run, round_: Round) -> None:
    if round_.number not in pools.pool_rounds(run.config.run):
        raise MissingError(
            f"round {round_.number} is selected by losses and its candidates were not scored: run"
            f" `attent score {run.config.run} --round {round_.number}`"
        )


def _kept_rounds(run: Run, round_: Round) -> list[int]:
    """Return the earlier teaching rounds whose candidates may compete again."""
    assert run.config.pool is not None
    first = max(0, round_.number - run.config.pool.keep_rounds)
    return [each.number for each in run.rounds[first : round_.number] if each.phase == "teach"]


def _fresh_losses(run: Run, round_: Round, number: int) -> pl.DataFrame:
    """Return the losses of an earlier round's candidates that no round since has taken."""
    check_same(
        method_of(pools.pool_provenance(run.catalog, round_.number)),
        method_of(pools.pool_provenance(run.catalog, number)),
        what=f"the candidates of round {number}, which compete again,",
    )
    losses = pools.pool_losses(run.catalog, number).frame().collect()
    return _not_taken(run, number, losses)


def _fresh_ids(run: Run, number: int) -> pl.DataFrame:
    ids = IndexFile.open(run.layout.candidates(number)).frame().select(_IDS).collect()
    return _not_taken(run, number, ids)


def _not_taken(run: Run, number: int, rows: pl.DataFrame) -> pl.DataFrame:
    for later in range(number, len(run.rounds)):
        if not run.is_selected(later):
            break
        taken = IndexFile.open(run.layout.index(later)).frame().select(_IDS).collect()
        rows = rows.join(taken, on=_IDS, how="anti", maintain_order="left")
    return rows


def _annotation_rows(annotations: AnnotationColumns, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the annotations of `rows`, if there are any; shards without such a row are not read."""
    if not annotations.annotations:
        return
    scan = annotations.join(None).of_shards(rows[SHARD_ID].unique().sort().to_list())
    yield pl.concat(scan.run(partial(_only, ids=rows.select(_IDS))))


def _only(rows: pl.LazyFrame, *, ids: pl.DataFrame) -> pl.DataFrame:
    return rows.join(ids.lazy(), on=_IDS, how="semi").collect()
