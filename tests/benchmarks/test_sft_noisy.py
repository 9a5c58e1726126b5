"""The regime `sft_noisy` of benchmarks/learning.py: its data, base, annotations and arms."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from catalogs import AnnotationStore
from pipeline.config import run_config

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from learning import runner, settings_of  # noqa: E402
from learning_arms.crawl import report  # noqa: E402
from learning_arms.crawl.pool import WINDOW  # noqa: E402
from learning_arms.regime import Data, Regime  # noqa: E402
from learning_arms.results import Results  # noqa: E402
from learning_arms.sft import kept  # noqa: E402
from learning_arms.sft.arms import KEYS, TOP, sft_arms  # noqa: E402
from learning_arms.sft.parts import SPOILED_SHARE, Sizes  # noqa: E402
from learning_arms.sft.regime import sft_noisy  # noqa: E402
from learning_arms.sft.spoiling import KINDS, OTHER, UNSPOILED, spoil  # noqa: E402

ANSWERS = [f"answer {n} has {n * 37} words and the word {n % 7} twice" for n in range(50)]


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.2, 0.4, 1.0]))
def test_a_share_of_the_answers_is_spoiled_and_marked(seed: int, share: float) -> None:
    rows = pl.DataFrame({"instruction": [f"{n}?" for n in range(50)], "output": ANSWERS})
    spoiled = spoil(rows, share=share, seed=seed)
    is_changed = spoiled["output"] != rows["output"]
    assert is_changed.to_list() == (spoiled["spoiled"] != UNSPOILED).to_list()
    assert is_changed.sum() == round(share * 50)
    assert spoiled["instruction"].equals(rows["instruction"])
    # The kinds take turns.
    counts = [(spoiled["spoiled"] == kind).sum() for kind in KINDS]
    assert max(counts) - min(counts) <= 1
    for answer, kind, before in zip(*spoiled["output", "spoiled"], ANSWERS, strict=True):
        check_spoiled(answer, kind, before)


def check_spoiled(answer: str, kind: str, before: str) -> None:
    match kind:
        case "other":
            assert answer in ANSWERS
        case "cut":
            assert before.startswith(answer)
            assert len(answer.split()) <= len(before.split()) / 3
        case "repeated":
            run = " ".join(answer.split()[:8])
            assert run in before
            assert answer.count(run) >= 2
        case "garbled":
            assert [sorted(word) for word in answer.split()] == [
                sorted(word) for word in before.split()
            ]
        case "numbers":
            assert [char.isdigit() for char in answer] == [char.isdigit() for char in before]


def test_an_answer_without_numbers_becomes_that_of_another_question() -> None:
    rows = pl.DataFrame({"output": ["a", "b", "b", "b", "b", "b", "b"]})
    spoiled = spoil(rows, share=1.0)
    assert set(spoiled["spoiled"]) <= {OTHER, "repeated"}
    assert (
        spoiled.filter(pl.col("spoiled") == OTHER, rows["output"] == "a")["output"]
        .is_in(["b"])
        .all()
    )
    for before, answer, kind in zip(rows["output"], *spoiled["output", "spoiled"], strict=True):
        assert answer != before or kind == UNSPOILED


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public data in small: words of their own, so that only copies overlap."""
    folder, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)

    def text(kind: str, count: int) -> str:
        return " ".join(f"{kind}{number}" for number in rng.integers(0, 30, count))

    for part, count in (("train", 200), ("val", 80)):
        novels = {"text": [text("novel", 80) for _ in range(count)]}
        novels["source"] = [f"{part} work {n // 20}" for n in range(count)]
        pl.DataFrame(novels).write_parquet(folder / f"eltec_prose_{part}.parquet")
    article = text("article", 30)
    dolly = pl.DataFrame(
        {
            "instruction": [text("asked", 6) for _ in range(400)],
            # Some questions are about the same article.
            "input": [article if n % 40 == 0 else "" for n in range(400)],
            "output": [text("said", 25) for _ in range(400)],
        }
    )
    dolly.write_parquet(folder / "dolly15k.parquet")
    for part in ("train", "test"):
        problems = {"question": [text("problem", 25) for _ in range(150)]}
        problems["answer"] = [f"{text('step', 12)} #### {n}" for n in range(150)]
        pl.DataFrame(problems).write_parquet(folder / f"gsm8k_{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def regime() -> Regime:
    return sft_noisy(gpu=False, sizes=Sizes(base=200, pool=100, target=40, judged=24))


@pytest.fixture(scope="module")
def data(regime: Regime, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    return regime.data(source, tmp_path_factory.mktemp("sft"))


def windows(texts: pl.Series) -> set[str]:
    words = [text.split() for text in texts]
    return {" ".join(each[n : n + WINDOW]) for each in words for n in range(len(each) - WINDOW + 1)}


def test_the_parts_have_no_run_of_twenty_words_in_common(data: Data) -> None:
    folder = Path(data.train).parent
    base, pool, target, judged = (
        windows(pl.read_parquet(folder / f"{name}.parquet")["text"])
        for name in ("base", "pool", "target", "judged-all")
    )
    assert min(map(len, (base, pool, target, judged))) > 100
    assert not base & (pool | target | judged)
    assert not pool & (target | judged)
    assert not target & judged


def test_a_share_of_the_pool_is_spoiled_and_nothing_else(data: Data) -> None:
    folder = Path(data.train).parent
    pool = pl.read_parquet(data.train)
    assert (pool["spoiled"] != UNSPOILED).mean() == pytest.approx(SPOILED_SHARE)
    assert pool["source"].value_counts(sort=True).rows() == [("dolly", 75), ("gsm8k", 25)]
    for name in ("target", "judged-all"):
        rows = pl.read_parquet(folder / f"{name}.parquet")
        assert all(text.endswith(answer) for text, answer in rows["text", "output"].rows())


def test_the_base_is_a_model_and_says_how_its_training_ended(data: Data) -> None:
    losses = data.notes["base"]["loss_of_each_tenth"]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    model = AutoModelForCausalLM.from_pretrained(data.sections["model"]["path"])
    assert sum(weights.numel() for weights in model.parameters()) == pytest.approx(9e5, rel=0.1)


def test_no_policy_but_the_oracle_reads_the_marks() -> None:
    reading = [name for name, arm in sft_arms().items() if "spoiled" in str(arm)]
    assert reading == ["full · oracle", "lora · oracle"]


def test_every_arm_is_a_configuration(regime: Regime, data: Data, tmp_path: Path) -> None:
    for name, arm in regime.arms().items():
        settings = settings_of(regime, data, arm, run=tmp_path / "run", seed=0, rate=1e-3)
        config = run_config.parse(settings)
        is_adapter = name.startswith("lora")
        assert (config.training.learning_rate != 1e-3) == is_adapter, name
        assert ("lora" in config.model) == is_adapter, name


def test_everything_is_counted(data: Data) -> None:
    arms = sft_arms()
    assert set(data.costs) == set(AnnotationStore(data.sections["corpus"]["path"]).names())
    assert data.costs["by_words"] > data.costs["relevance"] > 0
    # Fitting costs more than measuring.
    assert data.costs["fitted_loss"] > data.costs["base_loss"]
    named = {name for name in data.costs if name in str(arms)}
    assert named == set(data.costs)


def test_the_table_of_kinds_says_which_rows_a_policy_keeps(data: Data) -> None:
    store, pool = AnnotationStore(data.sections["corpus"]["path"]), pl.read_parquet(data.train)
    values = store.scan("relevance").frame().sort("row").collect()["value"].to_numpy()
    top = np.argsort(-values)[: round(TOP * len(pool))]
    counts = pool.group_by("spoiled").len().rows()
    shares = data.notes["kept"]["n-grams"]
    for kind, count in counts:
        assert shares[kind] == pytest.approx((pool["spoiled"][top] == kind).sum() / count, abs=0.11)
    assert sum(shares[kind] * count for kind, count in counts) == pytest.approx(len(top))
    table = kept.markdown(data.notes["kept"])
    assert len(table.splitlines()) == 2 + len(KEYS)
    assert f"| n-grams | {shares[UNSPOILED]:.0%} |" in table


def test_a_trial_has_costs_and_losses(regime: Regime, data: Data) -> None:
    arms = sft_arms()
    with runner(regime, data) as run_arm:
        scored = run_arm(arms["full · low loss"], seed=0, rate=1e-3)
        annotated = run_arm(arms["lora · n-grams"], seed=0, rate=1e-3)
    assert scored["samples_seen"] == annotated["samples_seen"] == 100
    assert scored["samples_scored"] > annotated["samples_scored"] == 0
    assert not scored["once"]
    assert set(annotated["once"]) == {"relevance"}
    for metric in ("eval_loss", "gsm8k_loss", "rest_loss"):
        assert 0 < scored["final"][metric] < 20


def trial(arm: str, *, seconds: float, loss: float) -> dict[str, Any]:
    return {
        "arm": arm,
        "seed": 0,
        "units_seen": 10 * seconds,
        "cpu_seconds": {"score": 0.0, "select": 0.0, "train": seconds},
        "pace_seconds": 1.0,
        "rounds": [],
        "once": {},
        "final": {"eval_loss": loss, "rest_loss": 1.0},
    }


def test_an_adapter_is_compared_with_adapters(tmp_path: Path) -> None:
    trials = [
        trial(f"{prefix}uniform {passes:g} ×", seconds=10 * passes, loss=worst - math.log2(passes))
        for prefix, worst in (("", 5), ("lora ", 7))
        for passes in (0.5, 1, 2, 4)
    ]
    trials += [trial(f"{which} · ours", seconds=10, loss=6) for which in ("full", "lora")]
    notes = {"kept": {"ours": dict.fromkeys((UNSPOILED, *KINDS), 0.5)}}
    results = Results(tmp_path / "r.json", "sft_noisy", sft_noisy(gpu=False), trials, notes=notes)
    rows = {row["arm"]: row for row in results.summarise()}
    assert rows["lora · ours"]["tokens_multiple"]["mean"] == pytest.approx(2)
    assert rows["full · ours"]["tokens_multiple"] == rows["full · ours"]["seconds_multiple_1"]
    assert rows["full · ours"]["tokens_multiple"]["is_at_most"]
    assert report.uniform_arms(rows, "lora") == [name for name in rows if "lora uniform" in name]
    results.draw()
    assert [path.name for path in tmp_path.iterdir()] == ["r.png"]
    assert set(results.tables()) == {"sft_noisy", "sft_noisy_law", "sft_noisy_kept"}
