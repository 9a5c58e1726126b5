"""`attent report`: one self-contained HTML page about a run, and its charts as PNG files.

Putting the page together. The page needs no network: the chart libraries and the pictures are
inside it.
"""

import base64
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
from catalogs import Corpus, storage
from catalogs.layout import Layout, join
from catalogs.shard_format import Sample
from pipeline import charts, metrics
from pipeline.adaptive import decision_log
from pipeline.antk.drift_table import drift_table
from pipeline.config import run_config
from pipeline.reports import outcomes
from pipeline.reports import tables as figures
from pipeline.reports.verdict import Verdict

_THIS = "this run"
# What a round costs; the evaluation is only for those who look, and stands apart.
_COSTS = ("score", "select", "train")
_STAGES = (*_COSTS, "evaluate")
_NUM_HARDEST = 24
_TEXT_CHARACTERS = 600
_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


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
        run: the run; its finished rounds are shown.
        controls: other runs to compare with, name → run.
        verdict: whether it saved time; of the run alone if left out.
        out: where to write; `report.html` in the run if left out.
        png: also write every chart as a PNG file into the folder `report` beside the page.

    Raises:
        MissingError: no round of the run, or of a control, is finished yet.
        InputError: a control has the name that the run itself has in the report.
    """
    settings = run_config.load(run)
    tables = _tables(run, controls or {})
    specs = _specs(_charts(run, tables))
    columns = tuple(settings.task.task.columns)
    hardest = figures.hardest(run, num_samples=_NUM_HARDEST, columns=columns)
    page = Template((Path(__file__).parent / "template.html").read_text()).substitute(
        title=html.escape(f"attent-select: {run.rstrip('/').rsplit('/', 1)[-1]}"),
        about=html.escape(_about(run, settings)),
        libraries=vl_convert.javascript_bundle(),
        verdict=html.escape((verdict or outcomes.verdict(run)).sentence),
        summary=_summary(tables),
        decisions=_decisions(run),
        charts="".join(f'<div id="chart{i}"></div>' for i in range(len(specs))),
        # A spec may hold user text: `</script>` must not end the script early.
        specs=json.dumps(specs).replace("<", "\\u003c"),
        samples=_samples(hardest),
    )
    url = Layout(run).report if out is None else storage.normalise(out)
    if png:
        _publish_pngs(specs, folder=join(url.rpartition("/")[0], "report"))
    storage.publish(url, page.encode())
    return url


def named_runs(controls: Sequence[str]) -> dict[str, str]:
    """`NAME=RUN` of the command line as name → run. Raises `InputError` where one is neither."""
    found: dict[str, str] = {}
    for control in controls:
        name, _, run = control.partition("=")
        if not name or not run:
            raise InputError(f"--control {control}: expected NAME=RUN, such as full=/data/full")
        if name in found:
            raise InputError(f"--control {control}: {name} is {found[name]} already")
        found[name] = run
    return found


def _tables(run: str, controls: Mapping[str, str]) -> dict[str, pl.DataFrame]:
    if _THIS in controls:
        raise InputError(
            f"--control {_THIS}={controls[_THIS]}: the report calls {run} so: choose another name"
        )
    tables = {name: metrics.table(url) for name, url in {_THIS: run, **controls}.items()}
    for name, table in tables.items():
        if table.is_empty():
            what = run if name == _THIS else f"--control {name}: {controls[name]}"
            raise MissingError(
                f"{what} has no finished round to report on: run `attent run` on it first"
            )
    return tables


def _charts(run: str, tables: Mapping[str, pl.DataFrame]) -> Iterator[alt.Chart | alt.LayerChart]:
    histograms = figures.loss_histograms(run)
    if len(histograms):
        yield charts.loss_distribution(histograms)
    yield charts.ratio_and_coverage(figures.coverage(run))
    yield charts.overlap_between_rounds(figures.overlaps(run))
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


def _specs(drawn: Iterable[alt.Chart | alt.LayerChart]) -> list[dict[str, Any]]:
    # Altair refuses more than 5,000 rows, which a chart with some lines over many rounds has.
    with alt.data_transformers.enable("default", max_rows=None):
        return [chart.to_dict() for chart in drawn]


def _about(run: str, settings: Any) -> str:
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
    """The metrics of the evaluation, or the training loss where there is none."""
    known = [name for name in ("accuracy", "perplexity", "eval_loss") if name in table.columns]
    return known[:2] or ["train_loss"]


def _summary(tables: Mapping[str, pl.DataFrame]) -> str:
    qualities = _qualities(pl.concat(list(tables.values()), how="diagonal"))
    titles = ["", "rounds", "samples seen", *(f"{stage} s" for stage in _COSTS), "total s"]
    titles += ["evaluate s", "waiting for data"]
    titles += [name.replace("_", " ") for name in qualities]
    rows = []
    for name, table in tables.items():
        *costs, evaluation = (
            table[f"{stage}_seconds"].sum() if f"{stage}_seconds" in table.columns else 0.0
            for stage in _STAGES
        )
        cells = [name, f"{len(table)}", f"{table['samples_seen'].sum():,.0f}"]
        cells += [f"{value:.1f}" for value in (*costs, sum(costs), evaluation)]
        cells += [_waiting(table)]
        cells += [f"{table[q][-1]:.4f}" if q in table.columns else "" for q in qualities]
        rows.append(cells)
    return _table(titles, rows)


def _waiting(table: pl.DataFrame) -> str:
    """The share of training that was spent waiting for batches; rounds that were resumed have no
    such number.
    """
    if "blocked_seconds" not in table.columns:
        return ""
    known = table.filter(pl.col("blocked_seconds").is_not_null())
    return f"{known['blocked_seconds'].sum() / max(known['train_seconds'].sum(), 1e-9):.2%}"


def _decisions(run: str) -> str:
    """What was decided per round, and why; nothing where the plan alone decided."""
    made = decision_log.read_all(run)
    if not made:
        return ""
    rows = [
        [
            f"{number}",
            f"{one.round.ratio:.1%}",
            f"{one.explore:.1%}",
            f"{one.rescore:.1%}",
            " · ".join(f"{name}: {reason}" for name, reason in one.reasons.items()),
        ]
        for number, one in sorted(made.items())
    ]
    table = _table(["round", "ratio", "explore", "rescore", "why"], rows)
    return f'<h2>Decisions</h2><div class="decisions">{table}</div>'


def _table(titles: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _samples(hardest: list[figures.HardSample]) -> str:
    if not hardest:
        return "<p>No losses were measured in this run.</p>"
    shown = [(_figure(hard.sample), hard) for hard in hardest]
    kind = "text" if shown[0][0].startswith("<pre>") else ""
    cells = "".join(
        f"<figure>{figure}<figcaption>loss {hard.loss:.3f} · shard {hard.shard_id}, row {hard.row}"
        f"{_short_values(hard.sample)}</figcaption></figure>"
        for figure, hard in shown
    )
    return f'<div class="samples {kind}">{cells}</div>'


def _figure(sample: Sample) -> str:
    """The sample's picture if it has one, else its texts."""
    for value in sample.values():
        if isinstance(value, bytes) and (kind := _image_type(value)):
            encoded = base64.b64encode(value).decode()
            return f'<img alt="" src="data:image/{kind};base64,{encoded}">'
    texts = [value for value in sample.values() if isinstance(value, str)]
    return f"<pre>{html.escape(chr(10).join(texts)[:_TEXT_CHARACTERS])}</pre>"


def _short_values(sample: Sample) -> str:
    numbers = {k: v for k, v in sample.items() if isinstance(v, int | float)}
    return "".join(html.escape(f" · {name} {value}") for name, value in numbers.items())


def _image_type(value: bytes) -> str | None:
    return next((kind for magic, kind in _IMAGE_TYPES.items() if value.startswith(magic)), None)


def _publish_pngs(specs: list[dict[str, Any]], *, folder: str) -> None:
    for i, spec in enumerate(specs):
        storage.publish(join(folder, f"{i:02d}.png"), vl_convert.vegalite_to_png(spec, scale=2))
