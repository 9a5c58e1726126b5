"""When a saving counts as shown: pure comparisons, and runs whose metrics were written by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from digits import VIT, samples, write_corpus
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError, MissingError
from catalogs import Corpus
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.cli.commands.demo import show_comparison
from pipeline.demo.run import Arm, DemoResult
from pipeline.reports.run_results import verdict_on
from pipeline.reports.verdict import RunResult, Verdict, judge


def arm(*rows: tuple[float, float]) -> list[RunResult]:
    """(seconds, quality) of the seeds 0, 1, …"""
    return [RunResult(seed, *row) for seed, row in enumerate(rows)]


def judged(ours: list[RunResult], theirs: list[RunResult], control: Any = ()) -> Verdict:
    return judge(
        ours, all_data=theirs, same_cost=control, quality="accuracy", higher_is_better=True
    )


OURS = arm((60, 0.91), (61, 0.89), (59, 0.90))
ALL = arm((100, 0.90), (102, 0.88), (98, 0.895))
SHORT = arm((62, 0.87), (63, 0.86), (61, 0.865))


def test_less_time_for_no_less_quality_is_a_saving() -> None:
    found = judged(OURS, ALL, SHORT)
    assert found.is_shown
    assert found.sentence == (
        "Saves 40.0 s (95 % confidence interval +37.5 to +42.5, 3 pairs) against all data (40%), "
        "accuracy better by +0.0083 (95 % confidence interval +0.0012 to +0.0155, 3 pairs); "
        "against all data for fewer epochs it saves 2.0 s (95 % confidence interval +2.0 to +2.0, "
        "3 pairs), accuracy better by +0.0350 (95 % confidence interval +0.0226 to +0.0474, "
        "3 pairs)."
    )
    assert found.all_data is not None
    assert found.all_data.share_saved == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("theirs", "control", "reason"),
    [
        ([], [], "there is no run on all data to compare with"),
        ([RunResult(7, 100, 0.9)], [], "there is no run on all data with the same seed"),
        (ALL[:1], [], "one pair of runs gives no confidence interval"),
        (arm((61, 0.5), (60, 0.5), (59, 0.5)), [], "against all data it saves 0.0 s"),
        (arm((100, 0.93), (101, 0.93), (99, 0.93)), [], "and accuracy is worse"),
        (ALL, arm((60, 0.90), (61, 0.89), (59, 0.91)), "all data for fewer epochs, which costs"),
    ],
    ids=["alone", "other seeds", "one pair", "no faster", "worse", "stopping earlier does too"],
)
def test_everything_else_is_no_saving_and_says_why(
    theirs: list[RunResult], control: list[RunResult], reason: str
) -> None:
    found = judged(OURS, theirs, control)
    assert not found.is_shown
    assert found.sentence.startswith("No saving shown: ")
    assert reason in found.sentence


def test_a_saving_that_was_not_compared_with_stopping_earlier_says_so() -> None:
    assert judged(OURS, ALL).is_shown
    assert "; not compared with all data for fewer epochs" in judged(OURS, ALL).sentence


WORSE = arm((100, 0.95), (102, 0.93), (98, 0.945))
SLOWER = arm((50, 0.90), (51, 0.88), (49, 0.895))
FASTER = "took 40.0 s less than all data, with accuracy"
NONE = "No saving shown: selection"
BETTER = f"Selection saved 40% of the time: it {FASTER} better by 0.0083."
BY_CHANCE = f"{NONE} {FASTER} better by 0.0100; one pair of runs cannot tell this from chance."
SLOW = (
    f"{NONE} took 10.0 s more than all data, with accuracy better by 0.0083; this is not a saving "
    "that can be told from chance."
)
BAD = f"{NONE} {FASTER} worse by 0.0417; that is not the same quality."
EARLY = (
    f"{NONE} {FASTER} better by 0.0083; all data for fewer epochs is not shown to be worse at that "
    "cost."
)


@pytest.mark.parametrize(
    ("theirs", "control", "sentence"),
    [
        (ALL, SHORT, BETTER),
        (ALL, (), BETTER),
        ([], (), "No saving shown: there is no run on all data to compare with."),
        (ALL[:1], (), BY_CHANCE),
        (SLOWER, (), SLOW),
        (WORSE, (), BAD),
        (ALL, OURS, EARLY),
    ],
    ids=["shown", "no control", "alone", "one pair", "slower", "worse", "stopping earlier"],
)
def test_the_plain_verdict_is_one_sentence(theirs: Any, control: Any, sentence: str) -> None:
    verdict = judged(OURS, theirs, control)
    assert verdict.plain == sentence
    assert verdict.plain.startswith("Selection saved") == verdict.is_shown


@pytest.mark.parametrize("seconds", [5.0, 14.4, 40.0])
@pytest.mark.parametrize("accuracy", [0.3, 0.5, 0.7])
def test_the_plain_verdict_has_the_numbers_of_the_table_of_the_demo(
    seconds: float, accuracy: float, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(total: float, quality: float) -> Arm:
        parts = {"score": 1.0, "select": 1.0, "train": total - 2, "total": total}
        return Arm(quality, 1.0, 100, parts, seconds_saved=14.4 - total)

    arms = {"full": row(14.4, 0.5), "uniform": row(9.0, 0.4), "soft": row(seconds, accuracy)}
    show_comparison(DemoResult("vision", *arms.values(), True, "report.html", 1.0))
    cells = next(line for line in capsys.readouterr().out.splitlines() if "soft" in line).split()
    saved, quality = float(cells[-1]), float(cells[-3])
    plain = judged(arm((seconds, accuracy)), arm((14.4, 0.5))).plain
    assert f"took {abs(saved):.1f} s {'less' if saved >= 0 else 'more'} than all data" in plain
    side = "better" if quality >= 0.5 else "worse"
    assert f"accuracy {side} by {abs(quality - 0.5):.4f}" in plain


ROWS = st.lists(st.tuples(st.floats(1, 1e4), st.floats(0, 1)), max_size=5)


@given(ROWS, ROWS, ROWS)
def test_a_saving_that_is_shown_is_one_in_seconds_and_in_quality(
    ours: list[Any], theirs: list[Any], control: list[Any]
) -> None:
    found = judged(arm(*ours), arm(*theirs), arm(*control))
    assert found.sentence.startswith("No saving shown") != found.is_shown
    if found.is_shown:
        assert found.all_data is not None
        assert found.all_data.seconds_saved.low is not None
        assert found.all_data.seconds_saved.low > 0
        assert found.all_data.quality_gained.mean >= 0
        assert found.same_cost is None or found.same_cost.quality_gained.is_above_zero


@given(ROWS, ROWS)
def test_a_loss_is_better_where_it_is_lower(ours: list[Any], theirs: list[Any]) -> None:
    rising = judged(arm(*ours), arm(*theirs))
    mirrored = [arm(*((s, -q) for s, q in side)) for side in (ours, theirs)]
    falling = judge(mirrored[0], all_data=mirrored[1], quality="accuracy", higher_is_better=False)
    assert asdict(falling) == asdict(rising)


def written(
    folder: Path, name: str, *, seed: int, ratio: float, seconds: float, **changed: Any
) -> str:
    """A finished run of two epochs over 30 digits."""
    run, shards, first = str(folder / name), folder / "shards", str(folder / "first")
    if not shards.exists():
        write_corpus(shards, samples(30)).save(first)
    Corpus.open(first).save(run)
    settings: dict[str, Any] = {
        "run": run,
        "seed": seed,
        "corpus": {"shards": [str(shards)]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "selection": {"strategy": "uniform"},
        "schedule": {"epochs": 2, "ratio": {"start": ratio}},
        **changed,
    }
    Path(Layout(run).config).write_text(yaml.safe_dump(settings))
    for number in range(settings["schedule"]["epochs"]):
        values = {
            "ratio": ratio,
            "num_samples": 30 * ratio,
            "samples_seen": 30 * ratio,
            "num_steps": 1,
            "train_loss": 1.0,
            "accuracy": 0.8 + 0.01 * seed - 0.001 * seconds,
            "score_seconds": 0.0,
            "select_seconds": 1.0,
            "train_seconds": seconds - 1,
        }
        metrics.publish(run, number, values)
    return run


def test_the_seconds_of_all_stages_and_the_last_quality_are_compared(tmp_path: Path) -> None:
    ours = [written(tmp_path, f"ours{n}", seed=n, ratio=0.5, seconds=10 + n) for n in (0, 1)]
    full = [written(tmp_path, f"all{n}", seed=n, ratio=1.0, seconds=20 + n) for n in (1, 0)]
    found = verdict_on(ours[0], repeats=ours[1:], all_data=full)
    assert found.is_shown
    assert found.all_data is not None
    assert found.all_data.seconds_saved.mean == pytest.approx(20)
    assert found.all_data.quality_gained.mean == pytest.approx(0.01)


def test_one_pair_says_which_side_is_better_and_how_to_repeat_it() -> None:
    found = judged(arm((60, 0.8)), arm((100, 0.9)))
    assert found.sentence == (
        "No saving shown: one pair of runs gives no confidence interval (+40.0 s saved against all "
        "data, accuracy worse by 0.1000). Repeat both `attent run` with `--set seed=1` and other "
        "folders, then `attent report RUN --repeat RUN1 --all-data OTHER --all-data OTHER1`."
    )


def test_a_run_alone_says_what_all_data_would_take_and_claims_nothing(tmp_path: Path) -> None:
    found = verdict_on(written(tmp_path, "run", seed=0, ratio=0.5, seconds=10))
    assert not found.is_shown
    # 18 s for 30 samples: 36 s for 60, less the 20 s that it took.
    assert found.estimated_seconds_saved == pytest.approx(16)
    assert "is estimated to take 16.0 s more" in found.sentence


def test_a_run_on_all_data_is_named_as_what_others_are_compared_with(tmp_path: Path) -> None:
    full = written(tmp_path, "full", seed=0, ratio=1.0, seconds=10)
    found = verdict_on(full)
    assert found.sentence == (
        "No saving shown: this run trains on all data in every round. Runs that select are "
        "compared with it: `attent report OTHER --all-data RUN`."
    )
    assert found.plain == "No saving shown: this run trains on all data in every round."
    assert verdict_on(full, all_data=[full]).all_data is not None


def test_a_run_that_is_not_finished_is_not_judged(tmp_path: Path) -> None:
    run = written(tmp_path, "run", seed=0, ratio=0.5, seconds=10)
    Path(Layout(run).round_metrics(1)).unlink()
    found = verdict_on(run)
    assert "No saving shown: the run is not finished (1 of 2 rounds)" in found.sentence
    with pytest.raises(MissingError, match="run cannot be compared: the run is not finished"):
        verdict_on(written(tmp_path, "ours", seed=0, ratio=0.5, seconds=9), repeats=[run])


def test_seconds_that_were_lost_are_not_taken_for_none(tmp_path: Path) -> None:
    run = written(tmp_path, "run", seed=0, ratio=0.5, seconds=10)
    kept = metrics.read(run, 1)
    assert kept is not None
    del kept["select_seconds"]
    Path(Layout(run).round_metrics(1)).unlink()
    metrics.publish(run, 1, kept)
    expected = "a process was interrupted, and the seconds of its stage `select` were lost"
    assert expected in verdict_on(run).sentence


@pytest.mark.parametrize(
    ("changed", "role", "message"),
    [
        ({"training": {"batch_size": 8}}, "all_data", "they differ in training"),
        ({"selection": {"strategy": "hard"}}, "repeats", "they differ in selection"),
        ({}, "repeats", "two repeats of a run have seed 0"),
        ({}, "all_data", r"trains on 50% of the data in a round: expected a run on all data"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, changed: dict[str, Any], role: str, message: str
) -> None:
    run = written(tmp_path, "run", seed=0, ratio=0.5, seconds=10)
    other = written(tmp_path, "other", seed=0, ratio=0.5, seconds=10, **changed)
    with pytest.raises(InputError, match=message):
        verdict_on(run, **{role: [other]})  # type: ignore[arg-type]


def test_a_metric_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    run = written(tmp_path, "run", seed=0, ratio=0.5, seconds=10)
    full = written(tmp_path, "full", seed=0, ratio=1.0, seconds=10)
    with pytest.raises(MissingError, match=r"has no metric mean_iou: .* it has accuracy"):
        verdict_on(run, all_data=[full], quality="mean_iou")
