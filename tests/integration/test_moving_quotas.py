"""Quotas that move to the stratum where a reference has learned what the learner has not."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples, write_corpus
from saved_models import save_language_model
from small_runs import small_run
from task_cases import TEXTS

from attent_select.errors import InputError
from catalogs import AnnotationStore, IndexFile
from catalogs.layout import Layout
from pipeline import run
from pipeline.adaptive import quota_log
from pipeline.annotation.for_run import make_annotations
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.html_report import write_report
from pipeline.reports.query import index, query
from pipeline.runs.setup import ingest_corpora
from trainers.scoring.scorer import score_rows


def train_reference(rows: list[dict[str, Any]]) -> torch.nn.Module:
    torch.set_num_threads(1)
    model = TASK.models(VIT).build(5).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = TASK.collate([TASK.prepare(row, generator=None) for row in rows])
    for _ in range(60):
        loss = TASK.per_sample_loss(model, batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def strata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of digits: `useful`, `noise` with random labels, and `learned`, one digit."""
    generator, digits = random.Random(0), samples(600)
    useful = [row | {"part": "useful"} for row in digits[:240]]
    noise = [row | {"part": "noise", "label": generator.randrange(10)} for row in digits[240:480]]
    learned = [digits[0] | {"part": "learned"} for _ in range(240)]
    reference = train_reference([*digits[:480], *learned[:60]])
    rows = [*useful, *noise, *learned]
    losses = score_rows(TASK, reference, enumerate(rows))["loss"].to_list()
    rows = [row | {"reference_loss": loss} for row, loss in zip(rows, losses, strict=True)]
    generator.shuffle(rows)
    folder = tmp_path_factory.mktemp("strata")
    write_corpus(folder / "parquet", rows, kind="parquet")
    return folder


QUOTAS = {"kind": "excess", "reference": "reference_loss", "samples": 24}


def moving_run(folder: Path, strata: Path, *, pool: bool, **quotas: Any) -> dict[str, Any]:
    values = small_run(folder, strata, selection__strategy="uniform")
    values["selection"] |= {"by": "part", "quotas": QUOTAS | quotas}
    values["schedule"] = {"epochs": 5, "warmup_epochs": 2, "ratio": {"start": 0.2}}
    if pool:
        values["schedule"] = {
            "budget": {"samples": 480},
            "warmup": {"samples": 300},
            "rounds": 3,
            "pool": {"multiple": 3, "block_rows": 8},
        }
    values["training"] |= {"learning_rate": 3e-3, "lr_scheduler": "constant"}
    del values["evaluation"]
    return values


def prepare_annotated(values: dict[str, Any], client: Client) -> None:
    """Ingest the corpus of a run and make its annotations."""
    config = run_config.parse(values)
    ingest_corpora(config, cluster=lambda: client)
    make_annotations(config, cluster=lambda: client)


@pytest.mark.parametrize("pool", [False, True])
def test_the_shares_move_to_the_useful_stratum_within_three_rounds(
    tmp_path: Path, strata: Path, client: Client, *, pool: bool
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=pool)
    run(run_config.parse(values), client=client)
    url = values["run"]
    decisions = quota_log.read_all(url)
    assert [each.round_number for each in decisions] == [1, 2, 3]
    useful = [each.shares["useful"] for each in decisions]
    assert 1 / 3 < useful[0] < useful[1] < useful[2], "the share rises in every round"
    assert useful[2] > 0.6
    for decision in decisions:
        assert sum(decision.shares.values()) == pytest.approx(1)
        assert min(decision.shares.values()) >= 0.05
        noise = decision.strata["noise"]
        assert noise.loss is not None
        assert noise.reference is not None
        assert noise.loss < noise.reference, "the reference does not predict noise either"
        assert "below the reference" in noise.why
        assert "above the reference" in decision.strata["useful"].why
    # The subset of a round has these shares.
    rows = query(url, "SELECT round, part, count(*) AS n FROM index NATURAL JOIN samples "
                 "WHERE round > 0 GROUP BY round, part")  # fmt: skip
    for (number,), part in rows.group_by("round"):
        shares = quota_log.read(url, int(str(number)))
        assert shares is not None
        for name, count in part.select("part", "n").iter_rows():
            assert count / part["n"].sum() == pytest.approx(shares.shares[name], abs=0.02)
    page = Path(write_report(url)).read_text()
    assert decisions[2].strata["useful"].why in page


def test_a_decision_is_the_same_after_a_loss_of_all_later_files(
    tmp_path: Path, strata: Path, client: Client
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=True)
    config = run_config.parse(values)
    run(config, client=client)
    layout = Layout(values["run"])

    def contents() -> list[bytes]:
        files = [Path(layout.round_quotas(n)).read_bytes() for n in (1, 2, 3)]
        digests = [IndexFile.open(layout.index(n)).digest.encode() for n in (1, 2, 3)]
        return files + digests

    before = contents()
    # As if the process had been killed between the losses of round 2 and its decision.
    for number in (2, 3):
        for url in (layout.index(number), layout.round_metrics(number)):
            Path(url).unlink()
        Path(layout.round_quotas(number)).unlink()
    run(config, client=client)
    assert contents() == before
    again = moving_run(tmp_path / "again", strata, pool=True)
    run(run_config.parse(again), client=client)
    assert [Path(Layout(again["run"]).round_quotas(n)).read_bytes() for n in (1, 2, 3)] == before[
        :3
    ]


def test_weights_of_a_mixture_are_the_first_shares(
    tmp_path: Path, strata: Path, client: Client
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=False)
    files = sorted(str(path) for path in (strata / "parquet").iterdir())
    values["corpus"] = [
        {"name": "first", "shards": files[:1], "weight": 0.7},
        {"name": "rest", "shards": files[1:]},
    ]
    values["selection"]["by"] = "name"
    values["schedule"] |= {"epochs": 2, "warmup_epochs": 1}
    run(run_config.parse(values), client=client)
    (decision,) = quota_log.read_all(values["run"])
    assert decision.strata["first"].before == pytest.approx(0.7)
    assert decision.strata["rest"].before == pytest.approx(0.3)
    assert len(index(values["run"]).collect())


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"by": None}, "quotas: also set `by`"),
        ({"quotas": {"kind": "excess"}}, "quotas.reference: name an annotation"),
        ({"quotas": QUOTAS | {"reference": "loss"}}, "reference: loss changes with the learner"),
        (
            {"quotas": QUOTAS | {"reference": "nothing"}},
            "selection.quotas.reference: unknown column 'nothing'",
        ),
        ({"quotas": QUOTAS | {"samples": 0}}, "samples: 0 is less than 1"),
        ({"quotas": QUOTAS | {"min_share": 1.5}}, "min_share: 1.5 is outside"),
        ({"quotas": QUOTAS | {"rate": 0}}, "rate: 0 is not positive"),
        ({"quotas": QUOTAS | {"kind": "moving"}}, "expected excess, equal or proportional"),
        ({"quotas": QUOTAS | {"share": 1}}, "quotas.share: unknown key of kind excess"),
        ({"quotas": {"kind": "equal", "samples": 3}}, "quotas.samples: unknown key of kind equal"),
    ],
)
def test_wrong_quotas_are_refused(
    tmp_path: Path, strata: Path, selection: dict[str, Any], message: str
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=False)
    values["selection"] |= selection
    with pytest.raises(InputError) as error:
        run_config.parse(values)
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0, "one line"
    assert not Path(values["run"]).exists()


def test_least_shares_above_one_are_refused_before_the_first_model(
    tmp_path: Path, strata: Path, client: Client
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=False, min_share=0.4)
    with pytest.raises(InputError, match=r"quotas\.min_share: 0\.4 for each of 3 strata is 1\.2"):
        run(run_config.parse(values), client=client)
    assert not Path(Layout(values["run"]).initial_checkpoint).exists()


def test_a_stratum_with_too_few_candidates_leaves_the_rest_to_the_others(
    tmp_path: Path, strata: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=True)
    values["schedule"] |= {"budget": {"samples": 80}, "warmup": {"samples": 40}, "rounds": 1}
    values["selection"]["where"] = "part = 'noise' OR label = 3"
    run(run_config.parse(values), client=client)
    (decision,) = quota_log.read_all(values["run"])
    chosen = query(values["run"], "SELECT part, count(*) AS n FROM index NATURAL JOIN samples "
                   "WHERE round = 1 GROUP BY part")  # fmt: skip
    counts = dict(chosen.select("part", "n").iter_rows())
    # Few candidates are a useful 3, and the share of these is a third at first.
    assert sum(counts.values()) == 40
    assert counts["useful"] < round(40 * decision.shares["useful"])
    useful = decision.strata["useful"].why
    assert f"only {counts['useful']} eligible samples of it" in useful
    assert "the others take the rest" in useful
    assert "eligible samples of it" not in decision.strata["noise"].why
    # No sample of the nearly learned digit is eligible.
    assert "learned" not in counts
    assert "no eligible sample in this round" in decision.strata["learned"].why


def test_fixed_quotas_of_a_stratum_without_candidates_go_to_the_others(
    tmp_path: Path, strata: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=True)
    values["schedule"] |= {"budget": {"samples": 360}, "rounds": 1}
    values["selection"] |= {
        "where": "part != 'learned'",
        "quotas": {"useful": 1, "noise": 2, "learned": 3},
    }
    run(run_config.parse(values), client=client)
    assert "no candidate is eligible in learned; the other strata have the share" in caplog.text
    chosen = query(values["run"], "SELECT part, count(*) AS n FROM index NATURAL JOIN samples "
                   "WHERE round = 1 GROUP BY part")  # fmt: skip
    assert dict(chosen.select("part", "n").iter_rows()) == {"useful": 20, "noise": 40}


def test_an_unknown_stratum_of_fixed_quotas_is_refused_before_the_first_model(
    tmp_path: Path, strata: Path, client: Client
) -> None:
    values = moving_run(tmp_path / "run", strata, pool=False)
    values["selection"]["quotas"] = {"useful": 1, "code": 2}
    message = r"quotas: unknown stratum code: the values of part are learned, noise, useful"
    with pytest.raises(InputError, match=message):
        run(run_config.parse(values), client=client)
    assert not Path(Layout(values["run"]).initial_checkpoint).exists()


def test_least_shares_of_known_strata_are_checked_before_the_reference_is_measured(
    tmp_path: Path, strata: Path, client: Client
) -> None:
    values = moving_run(tmp_path / "first", strata, pool=False)
    values["annotations"] = {"part": {"kind": "column", "column": "part"}}
    values["selection"] = {"strategy": "uniform"}
    prepare_annotated(values, client)
    again = moving_run(tmp_path / "run", strata, pool=False, min_share=0.4, reference="costly")
    again["corpus"] = {"path": values["run"]}
    again["annotations"] = {"costly": {"kind": "column", "column": "reference_loss"}}
    with pytest.raises(InputError, match=r"quotas\.min_share: 0\.4 for each of 3 strata is 1\.2"):
        run(run_config.parse(again), client=client)
    assert "costly" not in AnnotationStore(again["run"]).names()


@pytest.mark.parametrize("kind", ["equal", "proportional"])
def test_the_controls_can_be_named_as_kinds(tmp_path: Path, strata: Path, kind: str) -> None:
    values = moving_run(tmp_path / "run", strata, pool=False)
    values["selection"]["quotas"] = {"kind": kind}
    assert run_config.parse(values).selection.composition.quotas == kind


def test_a_reference_of_another_tokenizer_is_refused_before_the_first_model(
    tmp_path: Path, client: Client
) -> None:
    texts = [f"{prompt}\n{response}" for prompt, response in TEXTS] * 4
    rows = [{"text": text, "part": "ab"[i % 2]} for i, text in enumerate(texts)]
    write_corpus(tmp_path / "shards/parquet", rows, kind="parquet")
    learner = save_language_model(tmp_path / "learner")
    other = save_language_model(tmp_path / "other", texts=["entirely other words"])
    values = moving_run(tmp_path / "run", tmp_path / "shards", pool=False, reference="prior")
    values["task"] = {"name": "causal_lm", "text": "text", "max_length": 64}
    values["model"] = {"path": str(learner)}
    task = values["task"] | {"tokenizer": str(other)}
    values["annotations"] = {"prior": {"kind": "loss", "model": str(other), "task": task}}
    with pytest.raises(InputError, match=r"reference: .*has other tokens than the task's in"):
        run_config.parse(values)
    # One that was measured earlier, for any run of the corpus.
    measured = copy.deepcopy(values) | {"run": str(tmp_path / "first"), "task": task}
    measured["model"] = {"path": str(other)}
    measured["selection"] = {"strategy": "uniform"}
    prepare_annotated(measured, client)
    values |= {"corpus": {"path": measured["run"]}, "annotations": {}}
    with pytest.raises(InputError, match=r"reference: prior was measured with another tokenizer"):
        run(run_config.parse(values), client=client)
    assert not Path(Layout(values["run"]).initial_checkpoint).exists()
