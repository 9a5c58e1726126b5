"""Annotations that use a saved model, made by real clusters from Parquet and WebDataset shards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from digits import TASK, VIT, samples, write_corpus
from raw_text import junk, prose, write_texts
from saved_models import save_language_model
from servers import moto_s3
from typer.testing import CliRunner

from catalogs import AnnotationStore, storage
from catalogs.shard_format import Sample
from pipeline.annotation.command import annotate
from pipeline.annotation.targets import TargetSettings
from pipeline.cli.app import app
from pipeline.cluster import Client, scheduler_address
from pipeline.corpus.ingest import ingest
from pipeline.runs.garbage_collection import collect_garbage
from trainers.annotation import Examples, FitContext, Samples
from trainers.annotations.loss import Loss
from trainers.fitting.example_fit import ExampleFit

IMAGES = ["task.name=image_classification", "task.image_size=8", "task.num_channels=1"]
SHARD_FORMATS = ("parquet", "webdataset")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_language_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, client: Client) -> dict[str, str]:
    """Corpora of the same texts by shard format."""
    rows: list[Sample] = [{"text": text} for text in (*junk(58), "", "a")]
    return write_corpora(tmp_path_factory.mktemp("texts"), rows, client=client)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, client: Client) -> dict[str, str]:
    return write_corpora(tmp_path_factory.mktemp("digits"), samples(60), client=client)


def write_corpora(folder: Path, rows: list[Sample], *, client: Client) -> dict[str, str]:
    for kind in SHARD_FORMATS:
        write_corpus(folder / kind, rows, kind=kind)
        ingest([str(folder / kind)], folder=str(folder / f"{kind}-corpus"), client=client)
    return {kind: str(folder / f"{kind}-corpus") for kind in SHARD_FORMATS}


def make(corpus: str, client: Client, name: str, **options: Any) -> pl.DataFrame:
    annotate(corpus, name=name, scheduler=scheduler_address(client), overwrite=True, **options)
    AnnotationStore(corpus).verify(name)
    return AnnotationStore(corpus).scan(name).frame().collect()


def test_a_reference_loss_of_texts(texts: dict[str, str], model: str, client: Client) -> None:
    one, other = (
        make(texts[kind], client, "reference_loss", kind="loss", model=model)
        for kind in SHARD_FORMATS
    )
    assert one.equals(other)
    assert one.schema["value"] == pl.Float32
    record = AnnotationStore(texts["parquet"]).read("reference_loss")
    assert record.statuses == {"empty": 1, "ok": 59}
    assert record.units == one["num_units"].sum() > 0
    assert record.digests.keys() == {"model", "tokenizer"}
    assert record.settings["model"] == model


def test_a_loss_of_images_under_a_section_task(
    digits: dict[str, str], tmp_path: Path, client: Client
) -> None:
    models = TASK.models(VIT)
    models.save(models.build(0), tmp_path)
    one, other = (
        make(digits[kind], client, "prior", kind="loss", model=str(tmp_path), settings=IMAGES)
        for kind in SHARD_FORMATS
    )
    assert one.equals(other)
    assert one["value"].is_not_null().all()
    assert one["num_units"].to_list() == [1] * 60


def test_a_conditional_loss_is_that_of_the_model_fitted_to_the_target(
    texts: dict[str, str], model: str, client: Client, tmp_path: Path
) -> None:
    corpus = texts["webdataset"]
    write_texts(tmp_path / "target" / "0.parquet", [(text, "prose") for text in prose(60)])
    target = TargetSettings((str(tmp_path / "target"),))
    how = ["fit.epochs=2", "fit.learning_rate=0.01"]
    options: dict[str, Any] = {"kind": "loss", "model": model, "settings": how, "target": target}
    prior = make(corpus, client, "prior", kind="loss", model=model)
    conditional = make(corpus, client, "conditional", **options)
    assert (conditional["value"] < prior["value"]).sum() > 50
    store = AnnotationStore(corpus)
    record = store.read("conditional")
    assert record.settings["fit"]["epochs"] == 2
    assert record.digests.keys() == {"model", "tokenizer", "target", "fit", "fitted"}
    assert [entry["share"] for entry in record.enrichment["shares"]] == [0.05, 0.1, 0.2, 0.4]
    again = make(corpus, client, "again", **options)
    assert again.equals(conditional)

    fitted = Path(store.layout("conditional").fitted)
    assert collect_garbage(corpus).annotation_models == 0
    options["settings"] = [*how, "fit.batch_size=8"]
    make(corpus, client, "conditional", **options)
    assert len(list(fitted.iterdir())) == 2
    assert collect_garbage(corpus).annotation_models == 3
    assert sorted(fitted.glob("*/*")) == sorted(
        (fitted / store.read("conditional").digests["fit"]).iterdir()
    )


def test_models_are_read_from_s3_and_fitted_ones_are_stored_there(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: Samples = {"text": prose(20)}
    context = FitContext(Examples(columns, 20), lambda _: iter([columns]))
    with moto_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage.upload_folder(Path(model), f"{server.url}/model")
        kind = Loss(f"{server.url}/model", tokenizer=model, fitting=ExampleFit(epochs=1))
        remote = kind.fit(replace(context, folder=f"{server.url}/fitted"))
        values = kind.measure(columns, remote).rows
    assert values["value"].is_not_null().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the kind loss needs the setting model: give --model PATH"),
        (["--model", "/nothing", "--tokenizer", "MODEL"], "there is no such folder"),
        (["--model", "MODEL", "--set", "task=causal"], "expected causal_lm, "),
        (["--model", "MODEL", "--set", "task.text=txt"], "no column 'txt': did you mean 'text'?"),
        (["--model", "MODEL", "--set", "task.max_length=9999"], "the model has 512 positions"),
        (["--model", "MODEL", "--target", "TEXTS"], "does not use a target"),
        (["--model", "MODEL", "--set", "fit.epochs=2"], "give --target URL"),
        (["--model", "MODEL", "--set", "fit.epochs=0", "--target", "TEXTS"], "epochs: expected"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line_and_leaves_nothing_behind(
    texts: dict[str, str], model: str, client: Client, arguments: list[str], message: str
) -> None:
    corpus = Path(texts["webdataset"])
    before = sorted(corpus.rglob("*"))
    given = [{"MODEL": model, "TEXTS": corpus.parent / "parquet"}.get(a, a) for a in arguments]
    scheduler = ["--scheduler", scheduler_address(client)]
    command = ["annotate", corpus, "--name", "a", "--kind", "loss", *given, *scheduler]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(corpus.rglob("*")) == before
