"""Tables of a report as texts: result, cost, shares, decisions, environment."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import polars as pl

from attent_select.errors import InputError
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.adaptive import decision_log, quota_log
from pipeline.reports.html_parts import Table
from pipeline.reports.scored_rounds import TITLES, scored_rounds
from pipeline.training.round_notes import ENVIRONMENT, FINISHED
from trainers import checkpoint

# The stages that count as cost of a round; evaluation is shown apart.
COSTS = ("score", "select", "train")
STAGES = (*COSTS, "evaluate")


def qualities(table: pl.DataFrame) -> list[str]:
    """Return the metrics of the evaluation, or the training loss if there are none.

    With a target also the loss of its judging examples, and of random samples of the corpus.
    """
    known: list[str] = [n for n in ("accuracy", "perplexity", "eval_loss") if n in table.columns]
    judged = [n for n in ("target_loss", "corpus_loss") if n in table.columns]
    return (known[:2] or ["train_loss"]) + judged


def summary(tables: Mapping[str, pl.DataFrame]) -> Table:
    """Return a row for each run: its cost and its last qualities."""
    shown = qualities(pl.concat(list(tables.values()), how="diagonal"))
    titles = ["", "rounds", "samples seen", "units seen", *(f"{stage} s" for stage in COSTS)]
    titles += ["total s", "evaluate s", "waiting for data", "units/s", "padding"]
    titles += [name.replace("_", " ") for name in shown]
    rows = []
    for name, table in tables.items():
        *costs, evaluation = (_sum(table, f"{stage}_seconds") for stage in STAGES)
        cells = [name, f"{len(table)}", f"{table['samples_seen'].sum():,.0f}", _units(table)]
        cells += [f"{value:.1f}" for value in (*costs, sum(costs), evaluation)]
        cells += [_waiting(table), _units_per_second(table), _padding(table)]
        last = table.row(-1, named=True)
        cells += [_number(last.get(quality), ".4f") for quality in shown]
        rows.append(cells)
    return Table(titles, rows)


def cost_by_round(run: str, table: pl.DataFrame) -> Table:
    """Return a row per round with samples, units (tokens) and seconds by stage, and their sums."""
    scoring = metrics.scoring_table(run)
    counts = [name for name in ("num_samples", "num_units") if name in scoring.columns]
    scored = scoring.select("round", *(pl.col(name).alias(f"scored_{name}") for name in counts))
    joined = table.join(scored, on="round", how="left", maintain_order="left")
    columns = {
        "ratio": ("ratio", ".1%"),
        "steps": ("num_steps", ",.0f"),
        "samples scored": ("scored_num_samples", ",.0f"),
        "units scored": ("scored_num_units", ",.0f"),
        "samples trained": ("samples_seen", ",.0f"),
        "units trained": ("units_seen", ",.0f"),
        **{f"{stage} s": (f"{stage}_seconds", ",.1f") for stage in STAGES},
    }
    columns = {title: each for title, each in columns.items() if each[0] in joined.columns}
    rows = [
        [f"{row['round']}", *(_number(row[name], style) for name, style in columns.values())]
        for row in joined.iter_rows(named=True)
    ]
    sums = [
        "" if name == "ratio" else _number(_sum(joined, name), style)
        for name, style in columns.values()
    ]
    caption = (
        "A unit is a token of text, or a sample. An empty cell was not measured, or was lost with "
        "a process that was killed. Evaluation is not part of the cost."
    )
    return Table(["round", *columns], rows, ["all", *sums], caption=caption)


def shares(name: str, table: pl.DataFrame) -> Table | None:
    """Return the categories of an annotation with their shares; None for numbers."""
    if table["value"].dtype.is_numeric():
        return None
    wide = table.pivot("group", index="value", values="share").fill_null(0.0)
    selected = "selected" if "selected" in wide.columns else None
    rows = []
    for row in wide.sort("corpus", descending=True).iter_rows(named=True):
        share = row[selected] if selected else 0.0
        whole = row["corpus"]
        cells = [f"{whole:.1%}", f"{share:.1%}", f"{share - whole:+.1%}"]
        rows.append([row["value"], *cells, f"{share / whole:.2f}" if whole else ""])
    titles = [name, "share of the corpus", "share of the selection", "difference", "ratio"]
    caption = "A ratio above 1: the selection has more of these samples than a random subset."
    return Table(titles, rows, title=f"Shares by {name}", caption=caption)


def decision_tables(run: str) -> Iterator[Table]:
    """Yield tables of decisions, moving quotas and pools with their reasons."""
    decisions = sorted(decision_log.read_all(run).items())
    if decisions:
        rows = [
            [
                f"{number}",
                f"{one.round.ratio:.1%}",
                f"{one.explore:.1%}",
                f"{one.rescore:.1%}",
                " · ".join(f"{name}: {reason}" for name, reason in one.reasons.items()),
            ]
            for number, one in decisions
        ]
        titles = ["round", "ratio", "explore", "rescore", "why"]
        caption = "What was decided before each round, from the losses until then."
        yield Table(titles, rows, title="Decisions", caption=caption, kind="reasons")
    quotas = [
        [f"{each.round_number}", name, f"{one.before:.1%}", f"{one.share:.1%}", one.why]
        for each in quota_log.read_all(run)
        for name, one in each.strata.items()
    ]
    if quotas:
        titles = ["round", "stratum", "before", "share", "why"]
        caption = "The share of each stratum in a round, and in the round before."
        yield Table(titles, quotas, title="Quotas", caption=caption, kind="reasons")
    if rows := scored_rounds(run):
        caption = (
            "A correlation near 1: cheap losses put the samples in the same order as whole losses. "
            "The cost is that of cheap losses as a share of the cost of whole losses."
        )
        yield Table(TITLES, rows, title="Drawn, scored, selected", caption=caption)


def environment(run: str, table: pl.DataFrame) -> Table:
    """Return machine and versions as the last round that recorded them did."""
    notes = last_notes(run, table).get(ENVIRONMENT, {})
    versions = dict(notes.get("versions", {}))
    if not versions:  # runs made before have those of their checkpoints
        with suppress(InputError):  # of a damaged checkpoint
            last = checkpoint.open(Layout(run).checkpoint(int(table["round"][-1])))
            versions = {} if last is None else dict(last.versions)
    devices = notes.get("devices", [])
    rows = [
        ["processor", f"{notes['processor']}, {notes['cpus']} CPUs"] if notes else None,
        ["devices", ", ".join(devices) or "none: trained on the processor"] if notes else None,
        ["training processes", f"{notes['processes']}"] if notes else None,
        ["system", f"{notes['system']}"] if notes else None,
        None if notes else ["machine", "not recorded by the version that trained the rounds"],
        *([name, text] for name, text in versions.items()),
    ]
    return Table(("", ""), [row for row in rows if row is not None])


def last_notes(run: str, table: pl.DataFrame) -> dict[str, Any]:
    """Return the notes of the last round that has an environment; empty without any."""
    for number in reversed(table["round"].to_list()):
        if ENVIRONMENT in (notes := metrics.read_notes(run, number)):
            return notes
    return {}


def finished_at(run: str, table: pl.DataFrame) -> str:
    """Return when the last round finished (UTC), or an empty text."""
    return str(last_notes(run, table).get(FINISHED, ""))


def stage_columns(table: pl.DataFrame, *, stages: Sequence[str]) -> list[str]:
    """Return the columns of seconds that the table has."""
    return [name for stage in stages if (name := f"{stage}_seconds") in table.columns]


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def _sum(table: pl.DataFrame, column: str) -> float:
    return float(table[column].sum()) if column in table.columns else 0.0


def _units(table: pl.DataFrame) -> str:
    return f"{table['units_seen'].sum():,.0f}" if "units_seen" in table.columns else ""


def _units_per_second(table: pl.DataFrame) -> str:
    """Return the counted units (tokens) per second of training."""
    if not {"units_seen", "train_seconds"} <= set(table.columns):
        return ""
    seconds = float(table["train_seconds"].sum())
    return f"{float(table['units_seen'].sum()) / seconds:,.0f}" if seconds else ""


def _padding(table: pl.DataFrame) -> str:
    """Return the mean share of padding in the micro-batches, without resumed rounds."""
    values = table["padding"].drop_nulls().to_list() if "padding" in table.columns else []
    return f"{sum(values) / len(values):.1%}" if values else ""


def _waiting(table: pl.DataFrame) -> str:
    """Return the share of training that was spent waiting for batches, without resumed rounds."""
    if "blocked_seconds" not in table.columns:
        return ""
    known = table.filter(pl.col("blocked_seconds").is_not_null())
    blocked, total = (float(known[n].sum()) for n in ("blocked_seconds", "train_seconds"))
    return f"{blocked / max(total, 1e-9):.2%}"
