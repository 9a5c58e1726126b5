"""The draw of a round: its candidates are the next rows of a random walk through the corpus."""

from dataclasses import asdict

import polars as pl

from attent_select.errors import InputError, TooFewError
from attent_select.schedule.budget import Pool
from attent_select.schedule.candidate_walk import Place
from attent_select.schedule.rounds import Round
from attent_select.schema import INDEX, PROBABILITY, ROW, SHARD_ID, WEIGHT
from catalogs import IndexFile, storage
from pipeline.candidates.eligible_rows import eligible_rows
from pipeline.candidates.walk import walk_of
from pipeline.runs.state import Run

_PLACE = "place"


def draw_candidates(run: Run, round_: Round) -> IndexFile:
    """Return the candidates of a round; draw and write them unless they are there.

    A round without selection takes all that it draws.

    Raises:
        InputError: fewer rows are eligible.
    """
    url = run.layout.candidates(round_.number)
    if storage.info(url) is not None:
        return IndexFile.open(url, corpus=run.corpus)
    pool = run.config.pool or Pool(multiple=1)
    count = round_.num_samples
    if round_.phase == "teach":
        decision = run.decisions.get(round_.number)
        multiple = None if decision is None else decision.multiple
        count = pool.num_candidates(count, multiple=multiple)
    walk, start = walk_of(run.corpus, pool=pool, seed=run.config.seed), _place_before(run, round_)
    try:
        drawn = walk.draw(count, start=start, is_eligible=eligible_rows(run))
    except TooFewError as error:
        raise InputError(
            f"schedule.budget: round {round_.number} draws {count:,} candidates, and only "
            f"{error.eligible:,} of {run.corpus.num_samples:,} samples are eligible: lower the "
            "budget or schedule.pool.multiple, raise schedule.rounds, or widen selection.where"
        ) from error
    rows = pl.DataFrame({SHARD_ID: drawn.shards, ROW: drawn.rows}).with_columns(
        pl.lit(1.0, dtype=INDEX[name]).alias(name) for name in (WEIGHT, PROBABILITY)
    )
    # Another process of this run writes the same rows.
    return IndexFile.write(
        url,
        rows.lazy(),
        provenance={"corpus_id": run.corpus.corpus_id, _PLACE: asdict(drawn.place)},
        num_samples=count,
        overwrite=True,
    )


def _place_before(run: Run, round_: Round) -> Place:
    """Return where the draw before the round has ended."""
    for earlier in reversed(range(round_.number)):
        url = run.layout.candidates(earlier)
        if storage.info(url) is not None:
            return Place(**IndexFile.open(url).provenance[_PLACE])
    return Place()
