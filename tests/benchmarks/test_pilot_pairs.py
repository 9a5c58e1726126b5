"""benchmarks/pilot.py: when a pilot is right, its table, and one pilot of the smallest size."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_text import prose, write_pool, write_texts

from attent_select.stats.equivalence import MultipleInterval
from pipeline.cluster import Client
from pipeline.corpus.ingest import ingest
from trainers.inputs.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from learning_arms.regimes import regimes  # noqa: E402
from pilot import (  # noqa: E402
    cost_of,
    curve_of,
    measured_multiple,
    run_case,
    with_measured,
    write,
)
from pilot_pairs.cases import CASES, PREPARE, Case, Prepared, kept_share  # noqa: E402
from pilot_pairs.rules import are_same_bounds, is_decided, is_near, is_right, is_same_sign, sign_of  # noqa: E402
from pilot_pairs.table import markdown, summary  # noqa: E402

MULTIPLES = st.floats(0.1, 10)


def k(text: str, low: float | None = None, high: float | None = None) -> MultipleInterval:
    """A multiple written `2.0`, `>=2.0`, `<=2.0` or `?2.0`, which is bounded on both sides."""
    value = float(text.lstrip("<>=?"))
    return MultipleInterval(
        value, low, high, 3, is_at_least=text[0] in ">?", is_at_most=text[0] in "<?"
    )


@pytest.mark.parametrize(
    ("multiple", "sign"),
    [
        ("1.3", 1),
        ("0.8", -1),
        ("1.0", None),
        (">=1.3", 1),
        ("<=0.8", -1),
        (">=0.8", None),
        ("<=1.3", None),
        ("?1.3", None),
    ],
)
def test_a_bound_has_a_sign_only_where_it_excludes_the_other(
    multiple: str, sign: int | None
) -> None:
    assert sign_of(k(multiple)) == sign


@pytest.mark.parametrize(
    ("pilot", "measured", "is_same"),
    [
        ("1.3", "4.0", True),
        ("1.3", "0.9", False),
        (">=2", ">=4", True),
        ("<=0.5", "0.9", True),
        ("<=1.5", "1.3", False),
        ("<=1.5", "<=1.5", False),
    ],
)
def test_signs_are_compared(pilot: str, measured: str, *, is_same: bool) -> None:
    assert is_same_sign(k(pilot), k(measured)) == is_same


@pytest.mark.parametrize(
    ("pilot", "measured", "is_within"),
    [
        ("2.0", "2.9", True),
        ("2.0", "3.1", False),
        ("3.1", "2.0", False),
        # A lower bound is compatible with everything above it, and with a little less.
        (">=2.0", "9.0", True),
        (">=2.0", "1.4", True),
        (">=2.0", "1.3", False),
        ("1.9", ">=4.0", False),
        ("2.7", ">=4.0", True),
        (">=2.0", ">=4.0", True),
        ("<=0.5", "0.1", True),
        ("<=0.5", "0.8", False),
        ("<=0.5", ">=0.8", False),
        ("<=2.0", ">=0.8", True),
        ("?1.0", "1.0", False),
        ("1.0", "?1.0", False),
    ],
)
def test_a_multiple_is_near_if_the_bounds_allow_it(
    pilot: str, measured: str, *, is_within: bool
) -> None:
    assert is_near(k(pilot), k(measured)) == is_within


@pytest.mark.parametrize(
    ("pilot", "measured", "are_same"),
    [
        (">=2", ">=4", True),
        ("<=2", "<=4", True),
        (">=2", "<=4", False),
        (">=2", "4", False),
        ("2", "4", False),
        ("?2", "?4", False),
    ],
)
def test_two_bounds_on_the_same_side_are_counted(
    pilot: str, measured: str, *, are_same: bool
) -> None:
    assert are_same_bounds(k(pilot), k(measured)) == are_same


@given(MULTIPLES, MULTIPLES)
def test_exact_multiples_are_near_if_their_ratio_is(one: float, other: float) -> None:
    is_within = abs(math.log(one / other)) <= math.log(1.5)
    assert is_near(k(str(one)), k(str(other))) == is_within
    assert is_near(k(str(other)), k(str(one))) == is_within


def test_an_answer_is_right_if_the_measured_multiple_has_it() -> None:
    assert is_right("it will pay", k(">=1.1")) is True
    assert is_right("it will pay", k("0.9")) is False
    assert is_right("it will pay", k("<=1.1")) is False
    assert is_right("it will not pay", k("1.1")) is True
    assert is_right("it will not pay", k("1.3")) is False
    assert is_right("it will not pay", k(">=1.1")) is False
    assert is_right("uncertain", k("1.3")) is None
    assert is_right("it will pay", k("?1.3")) is None


def test_what_was_measured_is_decided_if_its_interval_excludes_one() -> None:
    assert is_decided(k("1.3", 1.1, 1.5))
    assert is_decided(k("0.7", 0.5, 0.9))
    assert not is_decided(k("1.3", 0.9, 1.8))
    assert not is_decided(k("1.3"))


def trial(arm: str, *, units: float, loss: float, scored: float = 0.0) -> dict[str, Any]:
    numbers = {"samples_seen": 100.0, "samples_scored": scored, "units_seen": units}
    numbers |= {"cpu_seconds": {"train": 5.0}}
    return {"arm": arm, "seed": 0, "final": {"eval_loss": loss}, **numbers}


def test_the_measured_multiple_counts_scoring_as_the_pilot_does() -> None:
    arms = [trial("uniform 1 ×", units=100, loss=3.0), trial("uniform 4 ×", units=400, loss=2.0)]
    arms.append(trial("full · hard", units=100, loss=2.5, scored=300))
    assert cost_of(arms[-1]) == pytest.approx(200)
    curve = curve_of(arms, "full · hard")
    assert curve == arms[:2]
    assert measured_multiple(arms, "full · hard", curve).mean == pytest.approx(200 / 200)
    free = arms[-1] | {"samples_scored": 0}
    assert measured_multiple([free], "full · hard", curve).mean == pytest.approx(200 / 100)


def test_a_record_has_the_multiple_of_all_runs_that_were_measured_since() -> None:
    name, case = next((name, case) for name, case in CASES.items() if case.curve)
    arm, (large, small) = case.arms["yours"], case.curve
    runs = [trial(small, units=100, loss=3.0), trial(large, units=400, loss=2.0)]
    runs.append(trial(arm, units=100, loss=2.5))
    record = {"pilot": name, "arm": arm, "measured_multiple": {"mean": 9.0}}
    measured = with_measured(record, {"trials": runs})["measured_multiple"]
    assert measured["mean"] == pytest.approx(2)
    assert measured["count"] == 1
    more = [{**run, "seed": 1} for run in runs]
    assert with_measured(record, {"trials": runs + more})["measured_multiple"]["count"] == 2


def test_every_pilot_names_measured_policies_and_selects_as_the_first() -> None:
    known = regimes(gpu=False)
    arms = {name: known[name].arms() for name in PREPARE}
    for case in CASES.values():
        assert {*case.arms.values(), *case.curve} <= set(arms[case.regime])
    assert kept_share(arms["web"]["AtteNT as published"]["schedule"]) == 0.5
    assert kept_share(arms["crawl"]["code · n-grams top 12.5 %"]["schedule"]) == 1 / 8
    assert kept_share(arms["sft_noisy"]["full · classifier"]["schedule"]) == 0.5


def record(arm: str, pilot: MultipleInterval, measured: MultipleInterval) -> dict[str, Any]:
    fields = {"regime": "crawl", "answer": "it will pay", "share": 0.05}
    fields |= {"run_samples": 123_000, "samples": 241}
    multiples = {"pilot_multiple": vars(pilot), "measured_multiple": vars(measured)}
    seconds = {"cpu_seconds": 100.0, "run_cpu_seconds": 2_000.0}
    return {"arm": arm, **fields, **multiples, **seconds}


def test_the_table_shows_bounds_and_what_is_undecided() -> None:
    records = [
        record("broad · n-grams", k(">=2.0", 1.9, 2.1), k(">=4.0", 3.9, 4.1)),
        record("broad · hard", k("1.2", 1.1, 1.3), k("0.8", 0.5, 1.3)),
    ]
    lines = markdown(records).splitlines()
    assert lines[2] == (
        "| crawl, broad | n-grams | 123,000 | 241 | ≥ 2.00 × (1.90 to 2.10) | it will pay | "
        "≥ 4.00 × (3.90 to 4.10) | yes | yes | 5.0% | 100 of 2,000 |"
    )
    assert "| no, undecided | yes |" in lines[3]
    text = summary(records)
    assert "right in 1 of 2 pairs, in 1 of 1 of those whose measured" in text
    assert "within a factor of 1.5 in 2 of 2; in 1 of these both are bounds" in text
    assert "1 were right, 1 wrong, 0 uncertain, and 0 about" in text


LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


@pytest.fixture
def prepared(tmp_path: Path, client: Client) -> Prepared:
    """A corpus with a tenth of prose, and a run that selects it by words."""
    wanted = prose(150)
    write_pool(tmp_path / "shards", num_rows=1_000, wanted=wanted[:100])
    write_texts(tmp_path / "target" / "0.parquet", [(text, "prose") for text in wanted[100:]])
    train_tokenizer(wanted, tmp_path / "tokenizer", vocab_size=300)
    ingest([str(tmp_path / "shards")], folder=str(tmp_path / "corpus"), client=client)
    task = {"name": "causal_lm", "text": "text", "max_length": 48}
    values = {
        "corpus": {"path": str(tmp_path / "corpus")},
        "target": {"shards": [str(tmp_path / "target")], "corpus_samples": 8},
        "task": task | {"tokenizer": str(tmp_path / "tokenizer")},
        "model": {"config": LLAMA},
        "annotations": {"near": {"kind": "ngram", "text": "text"}},
        "selection": {"strategy": "key", "key": "near"},
        "schedule": {"epochs": 10, "ratio": {"start": 0.1}},
        "training": {"batch_size": 8, "torch_threads": 1},
    }
    return Prepared(values, "digest")


def test_a_pilot_leaves_what_it_said_and_what_was_measured(
    tmp_path: Path, prepared: Prepared, client: Client
) -> None:
    case = Case("crawl", {"yours": "broad · words"}, passes=1, share=0.5)
    uniform = [trial(f"uniform {n} ×", units=100 * n, loss=4 - n) for n in (1, 2)]
    measured = {
        "tuning": [{"learning_rate": rate, "final": {"eval_loss": rate}} for rate in (0.2, 0.003)],
        "quality": "eval_loss",
        "corpus_digest": "another",
        "trials": [*uniform, trial("broad · words", units=100, loss=2.5)],
    }
    output = tmp_path / "pilot"
    records = list(run_case("toy", case, prepared, measured=measured, output=output, client=client))
    assert [each["arm"] for each in records] == ["broad · words"]
    only = records[0]
    assert only["share"] <= 0.5
    assert only["samples"] == 37  # 3 seeds × (3.5 + 1) × 37 of 1,000
    assert only["learning_rate"] == pytest.approx(0.003 * math.sqrt(only["batch_size"] / 8))
    assert not only["is_measured_corpus"]
    assert only["measured_multiple"]["mean"] == pytest.approx(math.sqrt(2))
    assert only["run_cpu_seconds"] == pytest.approx(1_000 * 0.05)
    outcomes = [
        json.loads((output / f"pilot/results/policy-0-{seed}.json").read_text())
        for seed in range(3)
    ]
    assert only["pilot_multiple"]["count"] == len(outcomes) == 3
    assert len(only["runs"]) == 3 * 4
    assert only["runs"]["policy-0-2"] == outcomes[2]
    write(records, tmp_path / "pilot.json")
    read = json.loads((tmp_path / "pilot.json").read_text())["pairs"]
    assert markdown(read) == markdown(records)
