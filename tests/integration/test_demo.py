"""The demonstration, with less data and fewer epochs."""

from pathlib import Path
from typing import Any

import pytest
from digits import VIT, samples

from pipeline.cli.commands.demo import show_comparison
from pipeline.demo.run import Demo, DemoResult, compare

SCHEDULE = {"epochs": 3, "warmup_epochs": 1, "ratio": {"start": 0.5}}


def settings(out: str) -> dict[str, Any]:
    return {
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "schedule": dict(SCHEDULE),
        "training": {"batch_size": 16, "torch_threads": 1},
    }


SMALL = Demo(
    name="small",
    samples=lambda: (samples(120)[:100], samples(120)[100:]),
    settings=settings,
    prepare=lambda training, out: Path(out, "prepared").write_text(str(len(training))),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def result(out: Path) -> DemoResult:
    return compare(SMALL, out=str(out))


def test_the_arms_differ_in_samples_seen_and_only_the_teacher_scores(result: DemoResult) -> None:
    assert result.full.samples_seen == 300
    assert result.uniform.samples_seen == result.soft.samples_seen == 200
    assert result.full.seconds["score"] == result.uniform.seconds["score"] == 0
    assert result.soft.seconds["score"] > 0
    for arm in (result.full, result.uniform, result.soft):
        parts = (arm.seconds[stage] for stage in ("score", "select", "train"))
        assert arm.seconds["total"] == pytest.approx(sum(parts))
        assert arm.accuracy is not None
        assert arm.seconds_saved == pytest.approx(
            result.full.seconds["total"] - arm.seconds["total"]
        )


def test_the_tars_select_the_same_rows(result: DemoResult, out: Path) -> None:
    assert result.webdataset_selects_same_rows
    assert len(list((out / "data" / "webdataset").glob("*.tar"))) == 4


def test_the_report_and_the_table_show_every_arm(
    result: DemoResult, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert result.report == f"{out}/report.html"
    page = Path(result.report).read_text()
    show_comparison(result)
    table = capsys.readouterr().out
    for arm in ("full", "uniform", "soft"):
        assert arm in table
    for arm in ("full", "uniform"):
        assert arm in page


def test_a_demo_that_was_finished_is_not_trained_again(result: DemoResult, out: Path) -> None:
    checkpoints = [path.stat().st_mtime_ns for path in out.rglob("checkpoint.json")]
    again = compare(SMALL, out=str(out))
    assert (again.full, again.uniform, again.soft) == (result.full, result.uniform, result.soft)
    assert [path.stat().st_mtime_ns for path in out.rglob("checkpoint.json")] == checkpoints
