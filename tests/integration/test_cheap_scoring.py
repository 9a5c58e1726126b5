"""Cheap losses of a run: what is measured and stored, and what they may not be mixed with."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from raw_text import prose, write_texts
from saved_models import save_language_model
from small_runs import small_run

from attent_select.errors import InputError
from catalogs import LossCatalog
from catalogs.losses import pools
from catalogs.losses.fidelity import LEAST_CORRELATION, fidelity_in
from pipeline import run, score
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.query import query
from trainers.scoring.precision import has_fast_bfloat16
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.tasks.causal_lm import CausalLm


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts of words that differ in length, and two saved models with one tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    words = prose(400)
    write_texts(folder / "shards" / "0.parquet", [(text, "prose") for text in words[:200]])
    write_texts(folder / "shards" / "1.parquet", [(text, "prose") for text in words[200:]])
    save_language_model(folder / "student", texts=words[:100])
    save_language_model(folder / "other", texts=words[:100], vocab_size=320)
    return folder


def text_run(folder: Path, texts: Path, **replaced: Any) -> dict[str, Any]:
    values = small_run(folder, texts, **replaced)
    values["corpus"] = {"shards": [str(texts / "shards")]}
    values["task"] = {"name": "causal_lm", "text": "text", "max_length": 128}
    values["model"] = {"path": str(texts / "student")}
    if "budget" not in values["schedule"]:
        values["schedule"].setdefault("epochs", 2)
    del values["evaluation"]
    return values


POOL = {"budget": {"samples": 40}, "rounds": 2, "pool": {"multiple": 3}}


def test_what_is_lost_is_stored_with_the_losses_and_shown(
    tmp_path: Path, texts: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "attent")
    values = text_run(tmp_path / "run", texts, schedule=POOL, selection__strategy="hard")
    values["scoring"] |= {"units_share": 0.5}
    run(run_config.parse(values), client=client)
    catalog = LossCatalog(values["run"])
    provenance = pools.pool_provenance(catalog, 1)
    assert provenance["method"] == {"dtype": "float32", "units_share": 0.5, "proxy": None}
    fidelity = fidelity_in(provenance)
    assert fidelity is not None
    assert fidelity.num_compared == 60, "all candidates, as they are few"
    assert fidelity.rank_correlation is not None
    assert fidelity.low is not None
    assert fidelity.low < fidelity.rank_correlation
    stored = query(values["run"], "SELECT round, rank_correlation, cost_share FROM scoring")
    assert stored.rows()[1] == (1, fidelity.rank_correlation, fidelity.cost_share)
    metrics = query(values["run"], "SELECT round, score_rank_correlation FROM metrics")
    assert metrics.rows()[1] == (1, fidelity.rank_correlation)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert str(fidelity) in logged
    is_low = fidelity.rank_correlation < LEAST_CORRELATION
    warned = [each.levelname for each in caplog.records if str(fidelity) in each.getMessage()]
    assert warned == ["WARNING" if is_low else "INFO"]


def test_the_correlation_is_that_of_the_losses_of_the_compared_rows(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    values = text_run(tmp_path / "run", texts, schedule=POOL, selection__strategy="hard")
    values["scoring"] |= {"units_share": 0.5}
    config = run_config.parse(values)
    result = score(config, client=client)
    rows = pools.pool_losses(LossCatalog(values["run"]), 0).frame().collect()
    stored = [pl.read_parquet(texts / "shards" / f"{n}.parquet")["text"].to_list() for n in (0, 1)]
    samples = [{"text": stored[shard][row]} for shard, row in rows.select("shard_id", "row").rows()]
    task = CausalLm(tokenizer=str(texts / "student"), text="text", max_length=128)
    model = task.models(values["model"]).build(config.seed)
    whole = score_rows(task, model, enumerate(samples), settings=ScoringSettings())
    assert rows["num_units"].to_list() == whole["num_units"].to_list(), "units of the whole text"
    ranks = pl.DataFrame({"cheap": rows["loss"], "whole": whole["loss"]})
    reference = ranks.select(pl.corr("cheap", "whole", method="spearman")).item()
    assert result.fidelity is not None
    assert result.fidelity.rank_correlation == pytest.approx(reference, abs=1e-6)


def test_a_proxy_measures_and_the_student_is_compared_with_it(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    values = text_run(tmp_path / "run", texts, selection__strategy="hard")
    values["scoring"] |= {"proxy": str(texts / "student")}
    values["model"]["config"] = {"attention_dropout": 0.1}
    result = score(run_config.parse(values), round_number=0, client=client)
    assert result.fidelity is not None
    # It is the student itself before any training, so that nothing is lost.
    assert result.fidelity.rank_correlation == pytest.approx(1.0)
    assert result.fidelity.num_compared == 256
    method = LossCatalog(values["run"]).provenance(0)["method"]
    assert method["proxy"] is not None


def test_whole_losses_are_not_compared_and_have_their_old_names(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    values = text_run(tmp_path / "run", texts, schedule=POOL, selection__strategy="hard")
    result = score(run_config.parse(values), client=client)
    assert result.fidelity is None
    assert fidelity_in(pools.pool_provenance(LossCatalog(values["run"]), 0)) is None


def test_without_a_dtype_all_rounds_have_that_of_the_first(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    values = text_run(tmp_path / "run", texts, schedule=POOL, selection__strategy="hard")
    del values["scoring"]["dtype"]
    run(run_config.parse(values), client=client)
    catalog = LossCatalog(values["run"])
    expected = "bfloat16" if has_fast_bfloat16() else "float32"
    for number in (0, 1):
        assert pools.pool_provenance(catalog, number)["method"]["dtype"] == expected
    # A run keeps the dtype of its losses, also where another one was written down for it.
    frozen = Path(values["run"], "run.yaml")
    lines = frozen.read_text().replace("dtype: null", "dtype: float32", 1).splitlines()
    frozen.write_text("\n".join(lines[1:]))  # without its digest, as if edited on purpose
    run_config.check_frozen(run_config.parse(values))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"scoring__units_share": 0.0}, "scoring.units_share"),
        ({"scoring__units_share": 1.5}, "scoring.units_share"),
        ({"scoring__proxy": "no/such/folder"}, "no/such/folder: there is no such folder"),
        ({"scoring__proxy": "OTHER"}, "the tokenizer of the model has other tokens"),
        (
            {"scoring__proxy": "STUDENT", "schedule__rescore": {"kind": "partial", "share": 0.5}},
            "scoring.proxy: with schedule.rescore.kind partial",
        ),
    ],
)
def test_what_cannot_be_measured_cheaply_is_refused(
    tmp_path: Path, texts: Path, replaced: dict[str, Any], message: str
) -> None:
    values = text_run(tmp_path / "run", texts, selection__strategy="hard")
    for path, value in replaced.items():
        section, key = path.split("__")
        known = {"OTHER": str(texts / "other"), "STUDENT": str(texts / "student")}
        values[section][key] = known.get(value, value) if isinstance(value, str) else value
    with pytest.raises(InputError) as error:
        run_config.parse(values)
    assert message in str(error.value)
    assert not Path(values["run"]).exists()
