"""attent pilot: yes where a tenth of the corpus is wanted, no yes on curated data, resumed runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import attent
from raw_text import prose, write_pool, write_texts
from small_runs import small_run

from attent_select.errors import InputError
from catalogs import Corpus
from catalogs.annotations.store import AnnotationStore
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.loop import run_rounds
from pipeline.pilot.command import PilotResult, run_pilot
from pipeline.stages import make_ready
from trainers.inputs.tokenizer import train_tokenizer

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def text_run(folder: Path) -> dict[str, Any]:
    """A configuration whose corpus has a tenth of prose among sources and data files."""
    return {
        "run": str(folder / "run"),
        "corpus": {"shards": [str(folder / "shards")]},
        "target": {"shards": [str(folder / "target")], "corpus_samples": 8},
        "task": {
            "name": "causal_lm",
            "text": "text",
            "max_length": 48,
            "tokenizer": str(folder / "tokenizer"),
        },
        "model": {"config": LLAMA},
        "selection": {"strategy": "uniform"},
        "schedule": {"budget": {"samples": 6000}},
        "training": {"batch_size": 8, "torch_threads": 1, "learning_rate": 3e-3},
    }


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pilot")
    wanted = prose(500)
    write_pool(folder / "shards", num_rows=4000, wanted=wanted[:400])
    write_texts(folder / "target" / "0.parquet", [(text, "prose") for text in wanted[400:]])
    train_tokenizer(wanted, folder / "tokenizer", vocab_size=300)
    return folder


def pilot_of(folder: Path, client: Client, **replaced: Any) -> PilotResult:
    config = run_config.parse(text_run(folder) | replaced)
    return run_pilot(config, share=0.9, policies=["pilot_ngram"], client=client)


@pytest.fixture(scope="module")
def found(texts: Path, client: Client) -> PilotResult:
    return pilot_of(texts, client)


def test_a_tenth_of_wanted_texts_will_pay(found: PilotResult) -> None:
    assert [verdict.keep for verdict in found.policies] == [0.1, 0.3]
    assert found.policies[0].answer == "it will pay"
    assert found.policies[0].multiple.mean > 1.3
    assert found.answer.startswith("Select by ngram (pilot_ngram), keep 0.")
    assert found.samples == 200  # a tenth of half of the corpus
    assert found.metric == "target_loss"
    assert found.share == pytest.approx(3 * 5.5 * 200 / 6000)


def test_the_recommendation_is_a_configuration_that_selects_by_it(found: PilotResult) -> None:
    assert found.recommended is not None
    config = run_config.load(found.recommended)
    assert config.selection.strategy.expression == "pilot_ngram"
    assert config.annotations["pilot_ngram"] == {"kind": "ngram", "text": "text"}
    assert Path(found.recommended).read_text().startswith("# Select by ngram")


def test_a_pilot_continues_with_the_runs_that_are_missing(
    texts: Path, found: PilotResult, client: Client
) -> None:
    results = Path(found.folder, "results")
    before = {path.name: json.loads(path.read_text()) for path in results.iterdir()}
    assert len(before) == 15
    assert not any(Path(found.folder, "runs").iterdir())
    for name in ("uniform-1-1.json", "policy-0-2.json"):
        (results / name).unlink()
    again = pilot_of(texts, client)
    assert again.policies == found.policies
    assert again.answer == found.answer
    for path in results.iterdir():
        for name in ("loss", "cost"):
            assert json.loads(path.read_text())[name] == before[path.name][name], path.name


def test_a_pilot_with_other_settings_needs_another_folder(
    texts: Path, found: PilotResult, client: Client
) -> None:
    with pytest.raises(InputError, match=r"plan\.json is the plan of a pilot with other settings"):
        pilot_of(texts, client, seed=5)


def test_a_run_of_a_pilot_is_judged_once_and_by_the_target_alone(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    replaced = {"run": str(tmp_path), "schedule": {"budget": {"samples": 32}, "rounds": 2}}
    config = run_config.parse(text_run(texts) | replaced)
    ready = make_ready(config, cluster=lambda: client)
    rounds = run_rounds(ready, cluster=lambda: client, judged_by="target")
    losses = [{name for name in values if name.endswith("_loss")} for _, values in rounds]
    assert losses == [{"train_loss"}, {"train_loss", "target_loss"}]


def test_curated_data_is_not_said_to_pay(tmp_path: Path, shards: Path, client: Client) -> None:
    values = small_run(tmp_path / "run", shards, selection={"strategy": "uniform"})
    config = run_config.parse(values)
    result = run_pilot(config, share=1.7, policies=["hard"], client=client)
    assert [verdict.answer == "it will pay" for verdict in result.policies] == [False]
    assert not result.answer.startswith("Select by")
    assert result.metric == "eval_loss"


def test_a_share_that_is_too_small_is_refused_before_annotations_are_made(
    texts: Path, tmp_path: Path, client: Client
) -> None:
    config = run_config.parse(text_run(texts))
    with pytest.raises(InputError, match="raise --share to"):
        run_pilot(config, share=1e-4, client=client, output=str(tmp_path / "pilot"))
    assert Corpus.open(str(tmp_path / "pilot")).num_samples == 4000
    assert not AnnotationStore(str(tmp_path / "pilot")).names()


@pytest.mark.usefixtures("one_cluster")
def test_what_a_pilot_cannot_do_is_refused_with_a_line(tmp_path: Path, shards: Path) -> None:
    values = small_run(tmp_path / "run", shards)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(values))
    done = attent("pilot", config, "--share", 0.01)
    assert done.returncode == 2
    assert "too few to learn anything: raise --share to" in done.stderr
    done = attent("pilot", config, "--policy", "nosuch")
    assert done.returncode == 2
    assert "--policy nosuch: expected one of yours, hard, soft" in done.stderr
    del values["evaluation"]
    config.write_text(json.dumps(values))
    done = attent("pilot", config)
    assert done.returncode == 2
    assert "a pilot compares held-out losses: add `target`" in done.stderr
