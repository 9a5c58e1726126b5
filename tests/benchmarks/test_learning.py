"""The pure parts of benchmarks/learning.py: its corpora, its arms, what it says of its trials."""

import io
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from digits import VIT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attent_select import plan_rounds
from pipeline.config import run_config

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from learning_arms import corpora, page, summary  # noqa: E402
from learning_arms.regimes import regimes  # noqa: E402


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


NUMBERS = range(1_000)
ROWS = pl.DataFrame({"image": [png(n % 250) for n in NUMBERS], "label": [n % 5 for n in NUMBERS]})


def test_a_web_like_corpus_has_the_faults_that_were_asked_for_and_is_made_again_the_same() -> None:
    made = corpora.web_like(ROWS, num_samples=400, tail=0.1, copied=0.5, mislabelled=0.05)
    assert len(made) == 400
    assert made["is_copy"].sum() == 200
    assert made["is_mislabelled"].sum() == 20
    again = corpora.web_like(ROWS, num_samples=400, tail=0.1, copied=0.5, mislabelled=0.05)
    assert made.equals(again)
    other = corpora.web_like(ROWS, num_samples=400, tail=0.1, copied=0.5, seed=1)
    assert not made.equals(other)


def test_a_wrong_label_is_wrong_and_an_original_keeps_its_image() -> None:
    made = corpora.web_like(ROWS, num_samples=400, tail=0.5, copied=0.0, mislabelled=0.25)
    truth = {
        bytes(image): {n for i, n in ROWS.rows() if i == image} for image in set(ROWS["image"])
    }
    for image, label, is_copy, is_wrong in made.rows():
        assert not is_copy
        assert (label in truth[image]) != is_wrong


def test_a_few_images_are_copied_far_more_often_than_the_others() -> None:
    made = corpora.web_like(
        ROWS.unique("image"), num_samples=200, tail=0.5, copied=0.5, nudge=lambda image, _: image
    )
    counts = Counter(made.filter("is_copy")["image"].to_list())
    assert max(counts.values()) >= 10
    assert set(counts) <= set(made.filter(~pl.col("is_copy"))["image"])


@given(st.integers(1, 12), st.integers(0, 5_000), st.floats(0.01, 1))
def test_classes_become_rarer_one_after_the_other(classes: int, total: int, tail: float) -> None:
    counts = corpora.class_counts(classes, total=total, tail=tail)
    assert sum(counts) == total
    assert all(one + 1 >= other for one, other in itertools.pairwise(counts))


def test_the_rarest_class_is_as_rare_as_was_asked_for() -> None:
    counts = corpora.class_counts(10, total=100_000, tail=0.02)
    assert counts[-1] / counts[0] == pytest.approx(0.02, rel=0.01)


def test_a_near_duplicate_is_near() -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (28, 28)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.pad(noisy[8:20, 8:20], 8)).save(buffer, "PNG")
    moved = corpora.nudge_image(buffer.getvalue(), np.random.default_rng(1))
    before, after = (corpora.pixels(pl.Series([one])) for one in (buffer.getvalue(), moved))
    assert before.shape == after.shape == (1, 1, 28, 28)
    assert not np.array_equal(before, after)
    assert abs(before.mean() - after.mean()) < 0.1


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "name", [name for name, regime in regimes(gpu=False).items() if regime.named_arms is None]
)
def test_every_arm_is_a_configuration_and_ours_train_on_no_more_than_the_control(
    tmp_path: Path, name: str, scale: str
) -> None:
    ROWS.write_parquet(tmp_path / "train.parquet")
    regime = regimes(gpu=scale == "gpu")[name]
    steps: dict[str, int] = {}
    for arm, sections in regime.arms().items():
        # The same schedule for the digits' model: what is looked at is the budget.
        settings: dict[str, Any] = {
            "run": str(tmp_path / "run"),
            "corpus": {"shards": [str(tmp_path / "train.parquet")]},
            "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
            "model": VIT,
            **sections,
        }
        schedule = run_config.parse(settings).schedule
        rounds = plan_rounds(schedule, num_samples=1_000_000, batch_size=1_000)
        steps[arm] = sum(each.num_steps for each in rounds)
    ours = [arm for arm in steps if arm.endswith("(ours)")]
    assert len(ours) == 4
    assert all(steps[arm] < steps[summary.SHORT] < steps[summary.ALL] for arm in ours)


def trial(arm: str, seed: int, *, seconds: float, accuracy: float, loss: float = 1.0) -> Any:
    return {
        "arm": arm,
        "seed": seed,
        "samples_seen": 10 * seconds,
        "samples_scored": 0.0,
        "cpu_seconds": {"score": 0.1, "select": 0.1, "train": seconds - 0.2},
        "wall_seconds": {"score": 1.0, "select": 1.0, "train": 9.0, "read": 0.5},
        "pace_seconds": 0.1,
        "rounds": [
            {"cpu_seconds": seconds / 2, "accuracy": accuracy - 0.2},
            {"cpu_seconds": seconds, "accuracy": accuracy},
        ],
        "final": {"eval_loss": loss, "accuracy": accuracy},
    }


TRIALS = [
    trial(arm, seed, seconds=seconds, accuracy=accuracy + seed / 10, loss=loss)
    for arm, seconds, accuracy, loss in (
        ("all data", 100, 0.8, 1.0),
        ("all data, fewer epochs", 60, 0.7, 1.0),
        ("ours", 51, 0.81, 0.9),
    )
    for seed in range(3)
]


def test_arms_are_compared_within_their_seed() -> None:
    full, short, ours = summary.summarise(TRIALS, quality="accuracy")
    assert full["final"]["accuracy"]["mean"] == pytest.approx(0.9)
    assert ours["cpu_seconds"]["total"] == pytest.approx(51)
    assert ours["overhead"] == pytest.approx(0.2 / 50.8)
    against = ours["against all data"]
    assert against["seconds_saved"]["mean"] == pytest.approx(49)
    # Between the seeds lie 0.1, between the arms 0.01, the same in each seed.
    assert against["accuracy"]["low"] == pytest.approx(0.01)
    assert against["eval_loss"]["mean"] == pytest.approx(0.1), "less loss is a gain"
    assert ours["verdict"].startswith("Saves 49.0 s")
    assert short["against all data"]["accuracy"]["mean"] == pytest.approx(-0.1)
    assert "verdict" not in short


def test_a_slow_hour_of_the_machine_is_not_taken_for_a_slow_arm() -> None:
    slow = [one | {"pace_seconds": 0.2} if one["seed"] == 1 else one for one in TRIALS]
    slow = [
        one
        | {"cpu_seconds": {k: v * 2 for k, v in one["cpu_seconds"].items()}}
        | {"rounds": [p | {"cpu_seconds": 2 * p["cpu_seconds"]} for p in one["rounds"]]}
        if one["seed"] == 1
        else one
        for one in slow
    ]
    assert summary.summarise(slow, quality="accuracy") == summary.summarise(
        TRIALS, quality="accuracy"
    )


def test_the_time_to_the_quality_of_all_data_is_read_between_two_rounds() -> None:
    rounds = [{"cpu_seconds": 10.0, "accuracy": 0.6}, {"cpu_seconds": 20.0, "accuracy": 0.8}]
    assert summary.first_reaching(rounds, 0.7, quality="accuracy") == pytest.approx(15)
    assert summary.first_reaching(rounds, 0.5, quality="accuracy") == 10
    assert summary.first_reaching(rounds, 0.9, quality="accuracy") is None
    falling = [{"cpu_seconds": 10.0, "eval_loss": 0.6}, {"cpu_seconds": 20.0, "eval_loss": 0.2}]
    assert summary.first_reaching(falling, 0.4, quality="eval_loss") == pytest.approx(15)


def test_a_table_has_a_line_for_every_arm() -> None:
    table = summary.markdown(summary.summarise(TRIALS, quality="accuracy"), quality="accuracy")
    lines = table.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| all data",
        "| all data, fewer epochs",
        "| ours",
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert "+0.0100 (+0.0100 to +0.0100)" in lines[-1]


def test_a_table_of_text_counts_tokens() -> None:
    def table_of(trials: list[Any]) -> str:
        return summary.markdown(summary.summarise(trials, quality="accuracy"), quality="accuracy")

    texts = [{**one, "units_seen": 150 * one["samples_seen"]} for one in TRIALS]
    assert "| ours | 510 | 76,500 |" in table_of(texts)
    images = [{**one, "units_seen": one["samples_seen"]} for one in TRIALS]
    assert "tokens" not in table_of(images)


def test_a_table_is_put_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- table web -->\nold\n<!-- end -->\nb\n")
    page.put_into(path, marker="web", text="new\n")
    page.put_into(path, marker="other", text="never\n")
    assert path.read_text() == "a\n<!-- table web -->\nnew\n<!-- end -->\nb\n"
