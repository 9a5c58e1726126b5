"""The regime `crawl` of benchmarks/learning.py: its pool, its arms, what it says of its trials."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.config import run_config
from trainers.inputs.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from learning import resolve, tuned_rate  # noqa: E402
from learning_arms.crawl import report, texts  # noqa: E402
from learning_arms.crawl.annotations import surrogate_annotations  # noqa: E402
from learning_arms.crawl.arms import (  # noqa: E402
    FITTED,
    REPEATED,
    SIZES,
    crawl_arms,
    uniform_name,
)
from learning_arms.crawl.law import predicted_multiple  # noqa: E402
from learning_arms.crawl.pool import (  # noqa: E402
    TARGETS,
    WANTED,
    Pool,
    Sizes,
    make_pool,
    without_overlaps,
)
from learning_arms.crawl.regime import crawl  # noqa: E402
from learning_arms.results import Results  # noqa: E402

# Columns that the regime has measured before an arm reads them.
MEASURED = ("top_broad", "surrogate_loss", "surrogate_conditional")


@given(st.text(alphabet="ab \n", max_size=4_000))
def test_pieces_are_short_and_hold_the_whole_text(text: str) -> None:
    pieces = list(texts.pieces(text))
    assert all(0 < len(piece) <= texts.PIECE for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_text_that_shares_twenty_words_with_a_held_out_one_is_dropped() -> None:
    words = [f"w{number}" for number in range(60)]
    held = pl.Series([" ".join(words[:30]), "too short"])
    rows = pl.DataFrame(
        {
            "text": [
                "before " + " ".join(words[5:25]),
                "before " + " ".join(words[5:24]) + " after",
                "too short",
                "too short to overlap",
            ]
        }
    )
    assert without_overlaps(rows, held)["text"].to_list() == rows["text"].to_list()[1::2]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("crawl")
    packages = folder / "packages"
    for number in range(300):
        package = packages / f"package{number}"
        package.mkdir(parents=True)
        for suffix in (".py", ".h", ".json", ".md"):
            (package / f"file{suffix}").write_text(f"{number} {suffix} " * 50)
    data = folder / "data"
    data.mkdir()
    for part, count in (("train", 200), ("val", 60)):
        novels = {"text": [f"{part} {n} " * 40 for n in range(count)]}
        novels["source"] = [f"{part} work {n // 4}" for n in range(count)]
        pl.DataFrame(novels).write_parquet(data / f"eltec_prose_{part}.parquet")
    dolly = {"instruction": [f"{n} is asked {n} " * 10 for n in range(300)]}
    dolly |= {"input": [""] * 300, "output": [f"{n} is said {n} " * 10 for n in range(300)]}
    pl.DataFrame(dolly).write_parquet(data / "dolly15k.parquet")
    for part in ("train", "test"):
        problems = {"question": [f"{part} {n} and {n}? " * 10 for n in range(150)]}
        problems["answer"] = [f"{part} {2 * n}" for n in range(150)]
        pl.DataFrame(problems).write_parquet(data / f"gsm8k_{part}.parquet")
    unknown = folder / "installed/unknown"
    unknown.mkdir(parents=True)
    (unknown / "file.py").write_text("not one of the packages of the list")
    sizes = Sizes(
        pool=400,
        examples=30,
        judged=9,
        standard_library=packages,
        installed=folder / "installed",
    )
    return make_pool(data, folder, sizes=sizes)


def test_a_pool_has_every_source_in_its_share(pool: Pool) -> None:
    rows = pl.read_parquet(f"{pool.shards}/*.parquet")
    counts = dict(rows["source"].value_counts().rows())
    assert "unknown" not in rows["package"]
    assert counts["data"] == pytest.approx(0.425 * 400, abs=5)
    assert counts["novels"] == pytest.approx(0.05 * 400, abs=5)
    assert counts["mathematics"] == pytest.approx(0.02 * 400, abs=5)


def test_the_parts_of_a_pool_have_no_package_in_common(pool: Pool) -> None:
    pooled = set(pl.read_parquet(f"{pool.shards}/*.parquet")["package"])
    for target in ("broad", "narrow", "code"):
        examples = set(pl.read_parquet(pool.examples[target])["package"])
        judged = set(pl.read_parquet(pool.judged[target])["package"])
        assert examples
        assert judged
        assert not examples & judged
        assert not pooled & (examples | judged)


def test_every_arm_is_a_configuration(pool: Pool, tmp_path: Path) -> None:
    regime = crawl(gpu=False)
    train_tokenizer(["a text", "another text"], tmp_path, vocab_size=300)
    rows = pl.read_parquet(f"{pool.shards}/*.parquet")
    measured = {name: rows["text"].str.len_chars() for name in MEASURED}
    rows.with_columns(**measured).write_parquet(tmp_path / "pool.parquet")
    files: dict[str, Any] = {
        "run": "run",
        "corpus": {"shards": [str(tmp_path / "pool.parquet")]},
        "task": {
            "name": "causal_lm",
            "tokenizer": str(tmp_path),
            "text": "text",
            "max_length": 256,
        },
    }
    made: dict[str, Any] = {f"relevance_{target}": {"kind": "ngram"} for target in TARGETS}
    made |= {"classifier_broad": {"kind": "classifier"}}
    made |= {name: {"kind": "column", "column": name} for name in ("source", *MEASURED)}
    files |= {"target": {"shards": [pool.examples["broad"]]}, "annotations": made}
    width = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=300, num_hidden_layers=1, **width)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    for sections in regime.arms().values():
        arm = resolve(sections, {FITTED: str(tmp_path)})
        run_config.parse(files | regime.sections | arm)


def trial(arm: str, *, tokens: float, loss: float, seed: int, once: float = 0.0) -> dict[str, Any]:
    losses = {report.metric_of(name): loss for name in ("broad", "narrow", "code")}
    return {
        "arm": arm,
        "seed": seed,
        "sections": {},
        "units_seen": tokens,
        "cpu_seconds": {"score": 0.0, "select": 0.0, "train": tokens / 100},
        "pace_seconds": 1.0,
        "rounds": [],
        "once": {"relevance": once},
        "final": losses | {"rest_loss": loss + 1},
    }


def trials() -> list[dict[str, Any]]:
    return [
        *(
            trial(
                uniform_name(size), tokens=1000 * size, loss=5 - math.log2(size) + seed, seed=seed
            )
            for seed in (0, 1)
            for size in SIZES
        ),
        *(
            trial("broad · ours", tokens=1000, loss=3.0 + seed, seed=seed, once=10.0)
            for seed in (0, 1)
        ),
    ]


def rows_of(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return report.summarise(some, by_token=True)


def test_a_policy_is_compared_with_the_uniform_runs_of_its_seed() -> None:
    row = next(row for row in rows_of(trials()) if row["arm"] == "broad · ours")
    assert row["tokens_multiple"]["mean"] == pytest.approx(4)
    assert row["seconds_multiple_1"]["mean"] == pytest.approx(40 / 20)
    assert row["seconds_multiple_10"]["mean"] == pytest.approx(40 / 11)


def test_trials_of_a_slower_machine_cost_what_they_would_on_the_first() -> None:
    def slower(one: dict[str, Any]) -> dict[str, Any]:
        costs = {stage: 3 * seconds for stage, seconds in one["cpu_seconds"].items()}
        return {**one, "machine": "slower", "cpu_seconds": costs}

    is_slow = {uniform_name(SIZES[-1]), uniform_name(SIZES[-2])}
    mixed = [slower(one) if one["arm"] in is_slow else one for one in trials()]
    expected, rows = rows_of(trials()), rows_of(mixed)
    for row, other in zip(rows, expected, strict=True):
        assert row["cpu_seconds"] == pytest.approx(other["cpu_seconds"])
        assert row.get("seconds_multiple_1") == pytest.approx(other.get("seconds_multiple_1"))


def test_a_machine_without_ordinary_updates_keeps_its_seconds() -> None:
    sections = {"training": {"token_selection": {"reference": "a model"}}}
    other = trial("broad · tokens", tokens=1000, loss=4.0, seed=0)
    other |= {"machine": "other", "sections": sections}
    other["cpu_seconds"]["train"] = 30.0
    row = rows_of([*trials(), other])[-1]
    assert row["cpu_seconds"]["train"] == pytest.approx(30)


def test_a_slow_hour_does_not_make_an_arm_dear_and_a_dear_update_does() -> None:
    measured = trials()
    ours = [one for one in measured if one["arm"] == "broad · ours"]
    ours[0]["cpu_seconds"]["train"] *= 3
    total = sum(one["cpu_seconds"]["train"] for one in measured)
    price = total / sum(one["units_seen"] for one in measured)
    row = next(r for r in rows_of(measured) if r["arm"] == "broad · ours")
    assert row["cpu_seconds"]["train"] == pytest.approx(1000 * price)
    for one in ours:
        one["sections"] = {"training": {"token_selection": {"reference": "a model"}}}
    row = next(r for r in rows_of(measured) if r["arm"] == "broad · ours")
    assert row["cpu_seconds"]["train"] == pytest.approx((30 + 10) / 2)


def test_the_table_says_what_was_saved(tmp_path: Path) -> None:
    rows = rows_of(trials())
    assert "| 4.00 × (4.00 to 4.00) | 50% (50% to 50%) | 73% (73% to 73%) |" in report.markdown(
        rows
    )
    report.draw(rows, path=tmp_path / "crawl.png")
    assert (tmp_path / "crawl.png").stat().st_size > 10_000


def test_the_picture_of_the_first_page_is_drawn(tmp_path: Path) -> None:
    named = [*trials(), trial("broad · deduplicated", tokens=1000, loss=4.0, seed=0)]
    report.draw_claim(rows_of(named), path=tmp_path / "claim.png")
    assert (tmp_path / "claim.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arm", "predicted"),
    [
        ("broad · 40% wanted rows", 4),
        ("broad · oracle: the wanted rows", 10),
        ("broad · oracle 4 ×", 40),
        ("broad · oracle, rows seen 14 times", 10),
        ("broad · n-grams top 10 %", None),
    ],
)
def test_a_known_share_of_wanted_rows_predicts_a_multiple(
    arm: str, predicted: float | None
) -> None:
    assert arm in crawl_arms(100)
    assert predicted_multiple(arm) == (predicted and pytest.approx(predicted))


def test_the_wanted_rows_of_the_pool_are_enough_for_every_round_of_an_oracle() -> None:
    sizes = Sizes()
    available = 0.9 * sizes.pool * sum(sizes.shares[name] for name in WANTED)
    oracles = {name: arm for name, arm in crawl_arms(2500).items() if "oracle" in name}
    parts = {f"broad · oracle, rows seen {n} times": part for n, (part, _) in REPEATED.items()}
    assert len(oracles) == 3 + len(parts)
    assert parts.keys() < oracles.keys()
    for name, arm in oracles.items():
        schedule = arm["schedule"]
        each = schedule["budget"]["samples"] / schedule["rounds"]
        assert each < available / parts.get(name, 1)


def test_the_table_of_the_law_has_what_was_measured() -> None:
    oracle = [trial("broad · oracle: the wanted rows", tokens=1000, loss=3.0, seed=0)]
    table = report.law_markdown(rows_of([*trials(), *oracle]))
    assert "| broad · oracle: the wanted rows | 10.0 × | 4.00 × |" in table


def test_a_policy_beyond_the_curve_has_a_bound() -> None:
    better = [*trials(), *(trial("code · ours", tokens=1000, loss=0.0, seed=s) for s in (0, 1))]
    row = next(row for row in rows_of(better) if row["arm"] == "code · ours")
    assert row["tokens_multiple"]["is_at_least"]
    assert "≥ 8.00 ×" in report.markdown([row])


def test_the_arms_have_uniform_runs_of_all_sizes() -> None:
    budgets = {name: arm["schedule"]["budget"] for name, arm in crawl_arms(100).items()}
    assert [budgets[uniform_name(size)] for size in SIZES] == [
        {"samples": round(100 * size)} for size in SIZES
    ]


def test_the_learning_rate_is_that_of_the_best_control_and_each_is_tried_once() -> None:
    losses = {2e-3: 3.0, 4e-3: 2.5, 8e-3: 2.75}
    calls: list[float] = []

    def run_arm(arm: Any, *, seed: int, rate: float) -> dict[str, Any]:
        calls.append(rate)
        return {"final": {"eval_loss": losses[rate]}}

    tuning = [{"learning_rate": 2e-3, "final": {"eval_loss": 3.0}}]
    regime = crawl(gpu=False)
    rate = tuned_rate(regime, tuning, run_arm=run_arm, keep=lambda: None)
    assert rate == 4e-3
    assert calls == [4e-3, 8e-3]
    assert [one["learning_rate"] for one in tuning] == sorted(losses)


@pytest.mark.parametrize(
    ("policy", "annotations"),
    [
        ("n-grams top 10 %", []),
        ("low perplexity top 10 %", ["surrogate", "surrogate_loss"]),
        ("quotas by excess loss", ["surrogate", "surrogate_loss"]),
        ("learnability", ["surrogate", "surrogate_conditional"]),
        ("token selection", ["surrogate", "surrogate_conditional"]),
        (
            "conditional loss top 10 %",
            ["surrogate", "surrogate_loss", "surrogate_conditional"],
        ),
    ],
)
def test_only_the_annotations_that_an_arm_needs_are_made(
    policy: str, annotations: list[str]
) -> None:
    arm = crawl_arms(100)[f"broad · {policy}"]
    assert surrogate_annotations(json.dumps([arm])) == annotations


def test_results_of_another_corpus_are_not_mixed(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json", "crawl", crawl(gpu=False), trials=trials())
    results.corpus_digest = "one"
    results.check_corpus("one")
    results.write()
    again = Results.read(results.path, name="crawl", regime=results.regime)
    assert again.trials == results.trials
    with pytest.raises(SystemExit, match="another corpus"):
        again.check_corpus("two")
