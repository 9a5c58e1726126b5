"""`attent report`: one self-contained HTML page about a run, and its charts as PNG and SVG files.

The page needs no network: the chart libraries and the pictures are embedded. It runs these two
scripts and no other: their digests are in its Content-Security-Policy.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from attent_select.errors import InputError, MissingError
from catalogs import AnnotationStore, Corpus, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.layout import Layout, join
from pipeline import metrics
from pipeline.annotation.prospects import Prospect
from pipeline.annotation.stored_values import overlaps_of
from pipeline.config.run_config import load_frozen
from pipeline.config.sections import RunConfig
from pipeline.reports import text_tables
from pipeline.reports.annotation_tables import AnnotatedRows, samples_beside_cut
from pipeline.reports.html_parts import Script, sample_figures
from pipeline.reports.report_charts import Figure, chart_groups
from pipeline.reports.report_tables import hardest_samples
from pipeline.reports.run_results import verdict_on
from pipeline.reports.verdict import Verdict

_THIS = "this run"
_NUM_HARDEST = 24
_NUM_BESIDE_CUT = 6
_FOLDER = Path(__file__).parent


def write_report(
    run: str,
    *,
    controls: Mapping[str, str] | None = None,
    verdict: Verdict | None = None,
    out: str | None = None,
    png: bool = False,
    svg: bool = False,
) -> str:
    """Write the report of a run and return its URL.

    Args:
        run: the run whose finished rounds are shown.
        controls: other runs to compare with, name → run.
        verdict: whether it saved time; default: the verdict on the run alone.
        out: URL of the page; default: `report.html` in the run.
        png, svg: also write every chart as a file into the folder `report` beside the page.

    Raises:
        MissingError: the run, or a control, has no finished round.
        InputError: a control has the name of the run in the report.
    """
    settings = load_frozen(run)
    runs = {_THIS: run, **(controls or {})}
    tables = _tables(run, controls or {})
    annotated = AnnotatedRows.of(run)
    groups = chart_groups(settings, tables=tables, runs=runs, annotated=annotated)
    figures = [figure for group in groups for figure in group.figures]
    hardest = hardest_samples(run, num_samples=_NUM_HARDEST, columns=_columns(settings))
    page = _render(
        title=f"attent-select: {run.rstrip('/').rsplit('/', 1)[-1]}",
        about=_about(run, settings),
        dates=_dates(run, tables[_THIS]),
        verdict=verdict or verdict_on(run),
        summary=text_tables.summary(tables),
        notes=list(_notes(run, settings)),
        groups=groups,
        specs=[figure.spec for figure in figures],
        beside_cut=_beside_cut(run, settings, annotated),
        hardest=sample_figures(hardest),
        environment=text_tables.environment(run, tables[_THIS]),
        configuration=storage.read(Layout(run).config).decode(),
    )
    url = Layout(run).report if out is None else storage.normalise(out)
    _publish_charts(figures, folder=join(url.rpartition("/")[0], "report"), png=png, svg=svg)
    storage.publish(url, page.encode())
    return url


def _render(*, specs: Sequence[dict[str, Any]], **values: Any) -> str:
    """Fill the template, which escapes every text that is not Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # A spec may hold user text: `</script>` must not end the script early.
    data = json.dumps(specs).replace("<", "\\u003c")
    codes = (
        vl_convert.javascript_bundle(),  # type: ignore[call-arg]  # optional
        f"\nconst specs = {data};\n{(_FOLDER / 'template.js').read_text()}",
    )
    scripts = [Script.of(code) for code in codes]
    return environment.get_template("template.html").render(
        style=Markup((_FOLDER / "template.css").read_text()),  # noqa: S704  (ours)
        scripts=[Script(Markup(each.code), each.digest) for each in scripts],  # noqa: S704
        **values,
    )


def _notes(run: str, settings: RunConfig) -> Iterator[str]:
    """Say what the annotations promised, and which overlaps with held-out examples are known."""
    columns = {*settings.annotations, *settings.selection.columns}
    for annotation, _ in AnnotationColumns.of(run, columns).annotations:
        if (prospect := Prospect.of(annotation.enrichment)) is not None:
            yield f"{annotation.name}: {prospect}"
    yield from map(str, overlaps_of(AnnotationStore(run)))


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


def _about(run: str, settings: RunConfig) -> str:
    corpus = Corpus.open(run)
    return (
        f"{corpus.num_samples:,} samples in {len(corpus.shards):,} shards · task "
        f"{settings.task.name} · strategy {settings.selection.strategy_name} · seed {settings.seed}"
    )


def _dates(run: str, table: pl.DataFrame) -> str:
    written = f"report written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if not (finished := text_tables.finished_at(run, table)):
        return written
    return f"last round finished {datetime.fromisoformat(finished):%Y-%m-%d %H:%M} UTC · {written}"


def _beside_cut(
    run: str, settings: RunConfig, annotated: AnnotatedRows | None
) -> list[dict[str, Any]]:
    """Return samples from both sides of the cut, where the selection reads a number of one."""
    if annotated is None:
        return []
    names = [each.name for each in annotated.annotations if each.value_type in ("Float32", "Int64")]
    for name in (each for each in names if each in settings.selection.columns):
        sides = samples_beside_cut(
            run,
            annotated,
            name=name,
            columns=_columns(settings),
            count=_NUM_BESIDE_CUT,
            rank_column=settings.selection.composition.rank_column,
        )
        titles = (f"Just selected by {name}", f"Just left out by {name}")
        return [
            {"title": title, "name": name, "samples": sample_figures(side)}
            for title, side in zip(titles, sides, strict=True)
        ]
    return []


def _publish_charts(figures: Iterable[Figure], *, folder: str, png: bool, svg: bool) -> None:
    for figure in figures:
        url = join(folder, figure.file_name)
        if png:
            storage.publish(f"{url}.png", vl_convert.vegalite_to_png(figure.spec, scale=2))
        if svg:
            storage.publish(f"{url}.svg", vl_convert.vegalite_to_svg(figure.spec).encode())
