"""Query, figures and report over a run whose files were written without any training."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from digits import VIT, samples, write_corpus

from attent_select import schema, select
from attent_select.errors import InputError, MissingError
from attent_select.strategies.uniform import Uniform
from catalogs import IndexFile, LossCatalog
from catalogs.layout import Layout
from pipeline import charts, metrics
from pipeline.reports import report_tables
from pipeline.reports.html_report import named_runs, write_report
from pipeline.reports.query import query

NUM_SAMPLES, RATIO = 90, 0.4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of three rounds, of which the last two were scored and chosen."""
    folder = tmp_path_factory.mktemp("report")
    run = str(folder / "run")
    corpus = write_corpus(folder / "shards", samples(NUM_SAMPLES))
    corpus.save(run)
    _write_config(run, folder / "shards")
    for number in range(3):
        if number:
            _score(run, number)
        ratio = RATIO if number else 1.0
        chosen = select(corpus.rows(), strategy=Uniform(), ratio=ratio, round_number=number)
        IndexFile.write(
            Layout(run).index(number), chosen.rows, provenance={"corpus_id": corpus.corpus_id}
        )
        values = {"ratio": ratio, "samples_seen": chosen.num_samples, "train_loss": 2.0 - number,
                  "accuracy": 0.5 + number / 10, "score_seconds": 1.0 * (number > 0),
                  "select_seconds": 0.5, "train_seconds": 4.0, "evaluate_seconds": 9.0,
                  "blocked_seconds": 0.01 * number, "units_seen": 120.0 * chosen.num_samples,
                  "padding": 0.02 * number}  # fmt: skip
        metrics.publish(run, number, values)
    return run


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of 75 rounds: round n chose the rows n … n + 9."""
    folder = tmp_path_factory.mktemp("long")
    run = str(folder / "run")
    corpus = write_corpus(folder / "shards", samples(NUM_SAMPLES), num_shards=1)
    corpus.save(run)
    _write_config(run, folder / "shards")
    kinds = list(schema.INDEX.items())[2:]
    rows = corpus.rows().with_columns(pl.lit(1.0).cast(kind).alias(name) for name, kind in kinds)
    for number in range(75):
        chosen = rows.filter(pl.col("row").is_between(number, number + 9))
        IndexFile.write(
            Layout(run).index(number), chosen, provenance={"corpus_id": corpus.corpus_id}
        )
        values = {"samples_seen": 10.0, "train_loss": 1.0, "train_seconds": 1.0}
        metrics.publish(run, number, values)
    return run


def _write_config(run: str, shards: Path) -> None:
    config = {
        "run": run,
        "corpus": {"shards": [str(shards)]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "selection": {"strategy": "uniform"},
    }
    Path(Layout(run).config).write_text(yaml.safe_dump(config))


def _score(run: str, number: int) -> None:
    catalog = LossCatalog(run)
    rows = catalog.corpus.rows().collect()
    losses = np.random.default_rng(number).gamma(2, 1 / number, len(rows)).astype(np.float32)
    losses[7] = 50.0  # one sample that is hardest in every round
    table = rows.with_columns(
        loss=pl.Series(losses), num_units=1, status=pl.lit("ok"), measured_step=number,
        origin=pl.lit("scored"), visits=0,
    )  # fmt: skip
    catalog.write_span("all", table.select(*schema.LOSSES))
    catalog.publish(number, [catalog.compact(["all"], round_number=number)], provenance={})


def test_every_table_can_be_queried_and_joined(run: str) -> None:
    counted = query(run, "SELECT round, count(*) AS n FROM index GROUP BY round ORDER BY round")
    assert counted["n"].to_list() == [90, 36, 36]
    hardest = query(
        run,
        "SELECT c.uri, l.loss FROM losses l JOIN corpus c USING (shard_id) "
        "ORDER BY l.loss DESC LIMIT 1",
    )
    assert hardest["loss"].to_list() == [50.0]
    assert hardest["uri"][0].endswith("000.parquet")
    best = query(run, "SELECT round, accuracy FROM metrics ORDER BY accuracy DESC LIMIT 1")
    assert best.rows() == [(2, 0.7)]


def test_a_query_that_polars_cannot_run_is_an_input_error(run: str) -> None:
    with pytest.raises(InputError, match="does not run"):
        query(run, "SELECT nothing FROM losses")


def test_a_run_without_losses_says_how_to_get_them(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    write_corpus(tmp_path / "shards", samples(9)).save(run)
    with pytest.raises(MissingError, match="attent score"):
        query(run, "SELECT * FROM losses")
    for table in ("corpus", "index", "metrics", "losses"):
        with pytest.raises(MissingError, match="not a run: see `attent ingest`"):
            query(str(tmp_path / "none"), f"SELECT * FROM {table}")
    assert len(query(run, "SELECT * FROM index")) == 0


def test_coverage_grows_and_overlap_is_that_of_the_subsets(run: str) -> None:
    coverage = report_tables.coverage(run)
    assert coverage["ratio"].round(3).to_list() == [1.0, 0.4, 0.4]
    assert coverage["covered"].to_list() == [1.0, 1.0, 1.0]
    subsets = [set(IndexFile.open(Layout(run).index(n)).frame().collect().select(
        "shard_id", "row").rows()) for n in (1, 2)]  # fmt: skip
    expected = len(subsets[0] & subsets[1]) / len(subsets[0] | subsets[1])
    found = report_tables.overlaps(run).filter((pl.col("first") == 1) & (pl.col("second") == 2))
    assert found["overlap"].item() == pytest.approx(expected)


def test_of_many_rounds_some_are_compared_and_all_are_reported(long_run: str) -> None:
    overlaps = report_tables.overlaps(long_run)
    rounds = overlaps["first"].unique().sort().to_list()
    assert len(rounds) == 40
    assert (rounds[0], rounds[-1]) == (0, 74)
    for first, second, overlap in overlaps.rows():
        common = max(0, 10 - abs(first - second))
        assert overlap == pytest.approx(common / (20 - common))
    write_report(long_run)
    assert "<td>this run</td><td>75</td><td>750</td>" in Path(Layout(long_run).report).read_text()


def test_loss_histograms_cover_every_sample_of_every_scored_round(run: str) -> None:
    histograms = report_tables.loss_histograms(run)
    shares = histograms.group_by("round").agg(pl.col("share").sum()).sort("round")
    assert shares["round"].to_list() == [1, 2]
    assert shares["share"].to_list() == pytest.approx([1.0, 1.0])


def test_the_hardest_samples_come_with_their_data(run: str) -> None:
    first, *rest = report_tables.hardest_samples(run, num_samples=5, columns=("image", "label"))
    assert (first.shard_id, first.row, first.value) == (0, 7, 50.0)
    assert first.sample == samples(8)[7]
    assert [hard.value for hard in rest] == sorted((hard.value for hard in rest), reverse=True)


def specs_of(page: str) -> list[dict[str, Any]]:
    """The charts of a report."""
    specs = re.search(r"const specs = (.*);\n", page)
    assert specs is not None
    charts: list[dict[str, Any]] = json.loads(specs.group(1))
    return charts


def without_library(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)


def test_the_report_is_one_file_that_needs_no_network(run: str) -> None:
    url = write_report(run, controls={"the same again": run}, png=True, svg=True)
    page = Path(url).read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:)([^"']*)""", without_library(page)) == []
    assert re.findall(r"@import|url\(|<link|<iframe", without_library(page)) == []
    assert "default-src 'none'; img-src data:" in page
    titles = [spec["title"]["text"] for spec in specs_of(page)]
    assert titles == [
        "accuracy over samples seen",
        "accuracy over seconds",
        "Loss distribution per round",
        "Ratio per round (bars) and coverage so far (line)",
        "Overlap between rounds (Jaccard)",
        "loss: selected in round 2, and the corpus",
        "Seconds per stage",
    ]
    assert page.count('src="data:image/png;base64,') == 24
    assert '"seconds_so_far": 15.5,' in page
    pictures = sorted((Path(url).parent / "report").iterdir())
    assert [path.suffix for path in pictures] == [".png", ".svg"] * len(titles)
    assert pictures[0].name == "00-accuracy-over-samples-seen.png"
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")


def test_the_report_says_result_cost_environment_and_configuration(run: str) -> None:
    page = Path(write_report(run, controls={"the same again": run})).read_text()
    assert "Verdict: No saving shown: the run is not finished (3 of 10 rounds)" in page
    assert "<td>the same again</td><td>3</td><td>162</td><td>19,440</td>" in page
    # Scoring, selecting, training, these three together; evaluating; waiting for data in training.
    assert "<td>2.0</td><td>1.5</td><td>12.0</td><td>15.5</td><td>27.0</td><td>0.25%</td>" in page
    assert "<td>0.25%</td><td>1,620</td><td>2.0%</td>" in page  # units per second, padding
    rounds = "<td>2</td><td>40.0%</td><td>36</td><td>4,320</td><td>1.0</td><td>0.5</td>"
    assert rounds in page
    assert "<td>all</td><td></td><td>162</td><td>19,440</td><td>2.0</td><td>1.5</td>" in page
    assert "not recorded by the version that trained the rounds" in page
    assert "strategy: uniform" in page.rpartition("<summary>run.yaml")[2]
    assert re.search(r"report written \d{4}-\d\d-\d\d \d\d:\d\d UTC", page)


def test_every_chart_has_a_caption(run: str) -> None:
    page = Path(write_report(run)).read_text()
    captions = re.findall(r'<figure class="chart"><h3>.+?</div><figcaption>(.+?)</fig', page)
    assert len(captions) == len(specs_of(page))
    assert min(map(len, captions)) > 60


def test_the_environment_and_the_learning_rates_come_from_notes(run: str, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    machine = {"processor": "<i>", "cpus": 3, "devices": [], "processes": 1, "system": "Linux",
               "versions": {"torch": "2.99"}}  # fmt: skip
    notes = {"environment": machine, "finished_at": "2026-01-02T03:04:05+00:00",
             "learning_rates": [(0, 0.0), (9, 0.25)]}  # fmt: skip
    values = {"samples_seen": 1.0, "train_loss": 1.0, "train_seconds": 1.0}
    Path(Layout(str(copied)).round_metrics(2)).unlink()
    metrics.publish(str(copied), 2, values, notes=notes)
    page = Path(write_report(str(copied))).read_text()
    assert "<td>&lt;i&gt;, 3 CPUs</td>" in page
    assert "<td>torch</td><td>2.99</td>" in page
    assert "last round finished 2026-01-02 03:04 UTC" in page
    (rates,) = (spec for spec in specs_of(page) if spec["title"]["text"].startswith("Learning"))
    (rows,) = rates["datasets"].values()
    assert [(row["step"], row["learning_rate"]) for row in rows] == [(0, 0.0), (9, 0.25)]


def test_hostile_names_and_settings_stay_text(run: str, tmp_path: Path) -> None:
    script = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = Path(Layout(str(copied)).config)
    config.write_text(f"{config.read_text()}# {script}\n")
    page = Path(write_report(str(copied), controls={script: run})).read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    for tag in ("<script>alert", "<img src=x"):
        assert tag not in page
    assert without_library(page).count("<script>") == 1


def test_legends_lie_inside_their_charts(run: str) -> None:
    """Below the chart, in columns that fit into it even on a narrow page."""
    rows = pl.DataFrame({"step": [1, 2], "loss": [1.0, 2.0], "arm": ["a" * 200, "b"]})
    values = {"group": ["corpus"], "value": ["v" * 200], "share": [1.0]}
    drawn = [
        charts.over_steps(rows, metric="loss", title="t" * 300, name="loss").to_dict(),
        charts.annotation_distribution(pl.DataFrame(values), name="n", round_number=1).to_dict(),
        *specs_of(Path(write_report(run)).read_text()),
    ]
    num_legends = 0
    for spec in drawn:
        assert spec["autosize"] == {"type": "fit-x", "contains": "padding"}
        assert spec["title"]["limit"] < spec["width"]
        for layer in spec.get("layer", [spec]):
            if (color := layer.get("encoding", {}).get("color")) is None:
                continue
            legend = color["legend"]
            num_legends += 1
            assert legend["orient"] == "bottom"
            width = legend.get("gradientLength") or legend["columns"] * (legend["labelLimit"] + 30)
            assert width <= 340 < spec["width"]
    assert num_legends >= 6


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (["full"], "--control full: expected NAME=RUN"),
        (["=/nowhere"], "--control =/nowhere: expected NAME=RUN"),
        (["full=/one", "full=/two"], "--control full=/two: full is already /one"),
        (["full=/nowhere"], "--control full: /nowhere has no finished round"),
        (["this run=/nowhere"], "--control this run=/nowhere: .* uses this name"),
    ],
)
def test_a_control_that_is_none_is_an_input_error(
    run: str, tmp_path: Path, controls: list[str], message: str
) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(InputError, match=message):
        write_report(run, controls=named_runs(controls), out=str(out))
    assert not out.exists()


def test_a_report_without_a_finished_round_says_what_to_do(run: str, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.yaml").write_bytes(Path(Layout(run).config).read_bytes())
    with pytest.raises(MissingError, match="attent run"):
        write_report(str(other))
