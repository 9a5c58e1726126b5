"""`attent report`: one self-contained HTML page about a run, and its charts as PNG files.

The page needs no network: the chart libraries and the pictures are embedded.
"""

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from attent_select.errors import InputError, MissingError
from catalogs import AnnotationStore, Corpus, storage
from catalogs.layout import Layout, join
from pipeline import charts, metrics
from pipeline.adaptive import decision_log, quota_log
from pipeline.annotation.stored_values import overlaps_of
from pipeline.antk.drift_table import drift_table
from pipeline.config.run_config import load_frozen
from pipeline.config.sections import RunConfig
from pipeline.reports import html_parts
from pipeline.reports.annotation_tables import AnnotatedRows, distributions, samples_beside_cut
from pipeline.reports.report_tables import coverage, hardest_samples, loss_histograms, overlaps
from pipeline.reports.run_results import verdict_on
from pipeline.reports.scored_rounds import TITLES, scored_rounds
from pipeline.reports.verdict import Verdict

_THIS = "this run"
# The stages that count as cost of a round; evaluation is shown apart.
_COSTS = ("score", "select", "train")
_STAGES = (*_COSTS, "evaluate")
_NUM_HARDEST = 24
_NUM_BESIDE_CUT = 6


def write_report(
    run: str,
    *,
    controls: Mapping[str, str] | None = None,
    verdict: Verdict | None = None,
    out: str | None = None,
    png: bool = False,
) -> str:
    """Write the report of a run and return its URL.

    Args:
        run: the run whose finished rounds are shown.
        controls: other runs to compare with, name → run.
        verdict: whether it saved time; default: the verdict on the run alone.
        out: URL of the page; default: `report.html` in the run.
        png: also write every chart as a PNG file into the folder `report` beside the page.

    Raises:
        MissingError: the run, or a control, has no finished round.
        InputError: a control has the name of the run in the report.
    """
    settings = load_frozen(run)
    tables = _tables(run, controls or {})
    annotated = AnnotatedRows.of(run)
    specs = _specs(_charts(run, tables, annotated))
    hardest = hardest_samples(run, num_samples=_NUM_HARDEST, columns=_columns(settings))
    page = Template((Path(__file__).parent / "template.html").read_text()).substitute(
        title=html.escape(f"attent-select: {run.rstrip('/').rsplit('/', 1)[-1]}"),
        about=html.escape(_about(run, settings)),
        libraries=vl_convert.javascript_bundle(),  # type: ignore[call-arg]  # optional
        verdict=html.escape((verdict or verdict_on(run)).sentence),
        summary=_summary(tables) + _overlaps(run),
        decisions=_decisions(run) + _quotas(run) + _scored_rounds(run),
        charts="".join(f'<div id="chart{i}"></div>' for i in range(len(specs))),
        # A spec may hold user text: `</script>` must not end the script early.
        specs=json.dumps(specs).replace("<", "\\u003c"),
        beside_cut=_beside_cut(run, settings, annotated),
        samples=html_parts.samples(hardest, title="loss")
        if hardest
        else "<p>No losses were measured in this run.</p>",
    )
    url = Layout(run).report if out is None else storage.normalise(out)
    if png:
        _publish_pngs(specs, folder=join(url.rpartition("/")[0], "report"))
    storage.publish(url, page.encode())
    return url


def _columns(config: RunConfig) -> tuple[str, ...]:
    """Return the columns that the settings of the task name, or all columns of the corpus."""
    columns = Corpus.open(config.run).columns
    named = [value for value in config.task.task.settings.values() if value in columns]
    return tuple(named) or columns


def named_runs(controls: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=RUN` of the command line into name → run.

    Raises:
        InputError: a control is not `NAME=RUN`, or a name occurs twice.
    """
    runs: dict[str, str] = {}
    for control in controls:
        name, _, run = control.partition("=")
        if not name or not run:
            raise InputError(f"--control {control}: expected NAME=RUN, such as full=/data/full")
        if name in runs:
            raise InputError(f"--control {control}: {name} is already {runs[name]}")
        runs[name] = run
    return runs


def _tables(run: str, controls: Mapping[str, str]) -> dict[str, pl.DataFrame]:
    if _THIS in controls:
        raise InputError(f"--control {_THIS}={controls[_THIS]}: the report uses this name for RUN")
    tables = {name: metrics.table(url) for name, url in {_THIS: run, **controls}.items()}
    for name, table in tables.items():
        if table.is_empty():
            source = run if name == _THIS else f"--control {name}: {controls[name]}"
            raise MissingError(
                f"{source} has no finished round to report on: run `attent run` on it first"
            )
    return tables


def _charts(
    run: str, tables: Mapping[str, pl.DataFrame], annotated: AnnotatedRows | None
) -> Iterator[charts.Chart]:
    histograms = loss_histograms(run)
    if len(histograms):
        yield charts.loss_distribution(histograms)
    if annotated is not None:
        for name, table in distributions(annotated):
            number = annotated.round_number
            yield charts.annotation_distribution(table, name=name, round_number=number)
    yield charts.ratio_and_coverage(coverage(run))
    yield charts.overlap_between_rounds(overlaps(run))
    yield charts.seconds_per_stage(_stages(tables[_THIS]))
    for _, of_kind in drift_table(run).group_by("kind", maintain_order=True):
        yield charts.kernel_drift(of_kind)
        yield charts.kernel_spectrum(of_kind)
    curves = pl.concat(
        [_with_totals(table).with_columns(arm=pl.lit(name)) for name, table in tables.items()],
        how="diagonal",
    )
    for metric in _qualities(curves):
        for against, title in (("samples_so_far", "samples seen"), ("seconds_so_far", "seconds")):
            yield charts.learning_curve(curves, metric=metric, against=against, title=title)


def _specs(drawn: Iterable[charts.Chart]) -> list[dict[str, Any]]:
    # Altair refuses more than 5,000 rows by default; a chart over many rounds has more.
    with alt.data_transformers.enable("default", max_rows=None):
        return [chart.to_dict() for chart in drawn]


def _about(run: str, settings: RunConfig) -> str:
    corpus = Corpus.open(run)
    return (
        f"{corpus.num_samples:,} samples in {len(corpus.shards):,} shards · task "
        f"{settings.task.name} · strategy {settings.selection.strategy_name} · seed {settings.seed}"
    )


def _with_totals(table: pl.DataFrame) -> pl.DataFrame:
    stages = [pl.col(name) for name in _stage_columns(table, stages=_COSTS)]
    return table.with_columns(
        samples_so_far=pl.col("samples_seen").cum_sum(),
        seconds_so_far=pl.sum_horizontal(stages).cum_sum(),
    )


def _stage_columns(table: pl.DataFrame, *, stages: Sequence[str]) -> list[str]:
    return [name for stage in stages if (name := f"{stage}_seconds") in table.columns]


def _stages(table: pl.DataFrame) -> pl.DataFrame:
    long = table.unpivot(
        _stage_columns(table, stages=_STAGES), index="round", variable_name="stage"
    )
    return long.select(
        "round", pl.col("stage").str.strip_suffix("_seconds"), pl.col("value").alias("seconds")
    )


def _qualities(table: pl.DataFrame) -> list[str]:
    """Return the metrics of the evaluation, or the training loss if there are none.

    With a target also the loss of its judging examples, and of random samples of the corpus.
    """
    known: list[str] = [n for n in ("accuracy", "perplexity", "eval_loss") if n in table.columns]
    judged = [n for n in ("target_loss", "corpus_loss") if n in table.columns]
    return (known[:2] or ["train_loss"]) + judged


def _summary(tables: Mapping[str, pl.DataFrame]) -> str:
    qualities = _qualities(pl.concat(list(tables.values()), how="diagonal"))
    titles = [
        "",
        "rounds",
        "samples seen",
        "units seen",
        *(f"{stage} s" for stage in _COSTS),
        "total s",
    ]
    titles += ["evaluate s", "waiting for data", "units/s", "padding"]
    titles += [name.replace("_", " ") for name in qualities]
    rows = []
    for name, table in tables.items():
        *costs, evaluation = (
            table[f"{stage}_seconds"].sum() if f"{stage}_seconds" in table.columns else 0.0
            for stage in _STAGES
        )
        cells = [name, f"{len(table)}", f"{table['samples_seen'].sum():,.0f}", _units(table)]
        cells += [f"{value:.1f}" for value in (*costs, sum(costs), evaluation)]
        cells += [_waiting(table), _units_per_second(table), _padding(table)]
        cells += [f"{table[q][-1]:.4f}" if q in table.columns else "" for q in qualities]
        rows.append(cells)
    return html_parts.table(titles, rows)


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
    shares = table["padding"].drop_nulls().to_list() if "padding" in table.columns else []
    return f"{sum(shares) / len(shares):.1%}" if shares else ""


def _waiting(table: pl.DataFrame) -> str:
    """Return the share of training that was spent waiting for batches, without resumed rounds."""
    if "blocked_seconds" not in table.columns:
        return ""
    known = table.filter(pl.col("blocked_seconds").is_not_null())
    blocked, total = (float(known[n].sum()) for n in ("blocked_seconds", "train_seconds"))
    return f"{blocked / max(total, 1e-9):.2%}"


def _overlaps(run: str) -> str:
    """Return a line for each overlap of the corpus with held-out examples that is known."""
    lines = (html.escape(str(overlap)) for overlap in overlaps_of(AnnotationStore(run)))
    return "".join(f"<p>{line}</p>" for line in lines)


def _beside_cut(run: str, settings: RunConfig, annotated: AnnotatedRows | None) -> str:
    """Return samples from both sides of the cut, where the selection reads a number of one."""
    if annotated is None:
        return ""
    names = [each.name for each in annotated.annotations if each.value_type in ("Float32", "Int64")]
    for name in (each for each in names if each in settings.selection.columns):
        sides = samples_beside_cut(
            run, annotated, name=name, columns=_columns(settings), count=_NUM_BESIDE_CUT
        )
        titles = (f"Just selected by {name}", f"Just left out by {name}")
        return "".join(
            f"<h2>{html.escape(title)}</h2>{html_parts.samples(side, title=name)}"
            for title, side in zip(titles, sides, strict=True)
        )
    return ""


def _decisions(run: str) -> str:
    """Return a table of the decisions and their reasons, or nothing for a fixed schedule."""
    decisions = decision_log.read_all(run)
    if not decisions:
        return ""
    rows = [
        [
            f"{number}",
            f"{one.round.ratio:.1%}",
            f"{one.explore:.1%}",
            f"{one.rescore:.1%}",
            " · ".join(f"{name}: {reason}" for name, reason in one.reasons.items()),
        ]
        for number, one in sorted(decisions.items())
    ]
    table = html_parts.table(["round", "ratio", "explore", "rescore", "why"], rows)
    return f'<h2>Decisions</h2><div class="decisions">{table}</div>'


def _quotas(run: str) -> str:
    """Return a table of moving quotas and their reasons, or nothing."""
    rows = [
        [f"{each.round_number}", name, f"{one.before:.1%}", f"{one.share:.1%}", one.why]
        for each in quota_log.read_all(run)
        for name, one in each.strata.items()
    ]
    if not rows:
        return ""
    table = html_parts.table(["round", "stratum", "before", "share", "why"], rows)
    return f'<h2>Quotas</h2><div class="decisions">{table}</div>'


def _scored_rounds(run: str) -> str:
    """Return a table of what each round drew, scored and selected, where it says more than that."""
    if not (rows := scored_rounds(run)):
        return ""
    return f"<h2>Drawn, scored, selected</h2>{html_parts.table(list(TITLES), rows)}"


def _publish_pngs(specs: list[dict[str, Any]], *, folder: str) -> None:
    for i, spec in enumerate(specs):
        storage.publish(join(folder, f"{i:02d}.png"), vl_convert.vegalite_to_png(spec, scale=2))
