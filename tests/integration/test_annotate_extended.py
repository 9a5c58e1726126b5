"""Values that are measured on a tenth of the samples and predicted for the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer_here
from raw_text import junk, prose
from saved_models import save_language_model
from typer.testing import CliRunner

from attent_select.errors import InputError
from attent_select.stats.agreement import rank_correlation
from catalogs import AnnotationStore
from pipeline.annotation.command import annotate
from pipeline.cli.app import app
from pipeline.cluster import Client, connect, scheduler_address
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.extension_settings import Extension
from pipeline.corpus.ingest import ingest
from trainers.fitting.example_fit import ExampleFit, fit_to_examples
from trainers.scoring.saved_model import SavedModel
from trainers.tasks.causal_lm import CausalLm

# Those of the corpus, and some more that train the model.
NUM_ROWS, NUM_TEXTS = 4000, 4600
TENTH = Extension(sample=0.1)
LENIENT = Extension(sample=0.1, min_fidelity=-1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Short texts of a raw pool in random order, 15 % of them prose."""
    found = [*prose(NUM_TEXTS * 15 // 100), *junk(NUM_TEXTS * 85 // 100)]
    return [found[number][:500] for number in np.random.default_rng(0).permutation(NUM_TEXTS)]


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory, client: Client) -> str:
    """A raw pool, and a column of noise."""
    folder = tmp_path_factory.mktemp("pool")
    generator = np.random.default_rng(1)
    (folder / "shards").mkdir()
    for shard, rows in enumerate(np.array_split(np.arange(NUM_ROWS), 4)):
        table = {"text": [texts[row] for row in rows], "noise": generator.normal(size=len(rows))}
        pq.write_table(pa.table(table), folder / "shards" / f"{shard}.parquet")
    ingest([str(folder / "shards")], folder=str(folder / "corpus"), client=client)
    return str(folder / "corpus")


@pytest.fixture(scope="module")
def trained(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A causal language model that was trained a little on such texts, so that losses vary."""
    folder = tmp_path_factory.mktemp("model")
    base = save_language_model(folder / "base", texts=texts[NUM_ROWS:], vocab_size=600)
    task = CausalLm(tokenizer=str(base), text="text")
    how = ExampleFit(epochs=2, learning_rate=1e-2, batch_size=16)
    examples = [{"text": text} for text in texts[NUM_ROWS:]]
    saved = SavedModel(str(base), task)
    fitted = fit_to_examples(saved, examples, how=how, folder=str(folder / "fitted"), seed=0)
    return {"model": fitted.url, "tokenizer": str(base)}


def make(corpus: str, client: Client, name: str, **options: Any) -> Any:
    annotate(corpus, name=name, scheduler=scheduler_address(client), overwrite=True, **options)
    return AnnotationStore(corpus).scan(name).frame().collect()


def test_a_tenth_extended_by_ngrams_ranks_like_the_full_column(
    corpus: str, trained: dict[str, str], client: Client
) -> None:
    full = make(corpus, client, "full", kind="loss", **trained)
    extended = make(corpus, client, "extended", kind="loss", extension=TENTH, **trained)
    values = extended["value"].to_numpy()
    correlation = rank_correlation(values, full["value"].to_numpy())
    assert correlation is not None
    assert correlation >= 0.9
    measured = extended["measured"].to_numpy()
    assert abs(measured.mean() - 0.1) < 0.02
    assert values[measured] == pytest.approx(full["value"].to_numpy()[measured], rel=1e-5)
    assert extended.columns == ["shard_id", "row", "value", "measured"]

    store = AnnotationStore(corpus)
    record = store.verify("extended")
    assert record.coverage > 0.99
    assert (record.settings["sample"], record.settings["extend"]) == (0.1, "ngram")
    assert record.fidelity["spearman"] == pytest.approx(correlation, abs=0.06)
    assert 0.5 < record.fidelity["top_share_overlap"] <= 1
    assert record.fidelity["num_fitted"] + record.fidelity["num_held_out"] == measured.sum()
    assert record.units * 5 < store.read("full").units
    assert store.span_digests("extended") == set()
    listed = {entry["name"]: entry for entry in answer_here("annotations", corpus)["annotations"]}
    assert listed["extended"]["fidelity"] == record.fidelity["spearman"]
    assert listed["full"]["fidelity"] is None

    with connect(ClusterSettings(workers=1)) as alone:
        make(corpus, alone, "extended", kind="loss", extension=TENTH, **trained)
    assert store.read("extended").digest == record.digest


def test_new_shards_are_measured_in_part_and_predicted_for_the_rest(
    tmp_path: Path, texts: list[str], client: Client
) -> None:
    folder, corpus = tmp_path / "shards", str(tmp_path / "corpus")
    folder.mkdir()
    for shard, rows in enumerate(np.array_split(np.arange(NUM_ROWS), 4)):
        table = pa.table({"text": [texts[row] for row in rows]})
        pq.write_table(table, folder / f"{shard}.parquet")
    scheduler = ("--scheduler", scheduler_address(client))
    ingest([str(folder / f"{shard}.parquet") for shard in range(3)], folder=corpus, client=client)
    before = make(corpus, client, "sum", kind="noisy.Noisy", extension=LENIENT)
    answer_here("ingest", folder / "3.parquet", "--append", "--out", corpus, *scheduler)
    model = Path(AnnotationStore(corpus).layout("sum").predictor).read_bytes()
    answer_here("annotate", corpus, "--name", "sum", "--complete", "--trust-run", *scheduler)
    store = AnnotationStore(corpus)
    after = store.scan("sum").frame().collect()
    assert after.head(len(before)).equals(before)
    new = after.tail(NUM_ROWS // 4)
    assert new["shard_id"].unique().to_list() == [3]
    assert new["value"].null_count() == 0
    assert new["measured"].sum() == pytest.approx(NUM_ROWS / 40, rel=0.3)
    assert Path(store.layout("sum").predictor).read_bytes() == model


def test_what_cannot_be_predicted_is_refused_unless_asked_for(corpus: str, client: Client) -> None:
    with pytest.raises(InputError, match=r"less than --min-fidelity 0\.5"):
        make(corpus, client, "noise", kind="noisy.Noisy", extension=TENTH)
    assert AnnotationStore(corpus).names().count("noise") == 0
    rows = make(corpus, client, "noise", kind="noisy.Noisy", extension=LENIENT)
    assert rows["measured"].sum() == pytest.approx(NUM_ROWS / 10, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "column", "--sample", "0.1"], "give both, such as --sample 0.1 --extend ngram"),
        (["--kind", "column", "--extend", "ngram"], "give both"),
        (
            ["--kind", "column", "--sample", "2", "--extend", "ngram"],
            "sample: expected less than 1",
        ),
        (["--kind", "column", "--sample", "0.1", "--extend", "x"], "extend: expected 'ngram'"),
        (["--kind", "duplicates", "--sample", "0.1", "--extend", "ngram"], "leave out --sample"),
        (
            ["--kind", "noisy.Noisy", "--sample", "0.01", "--extend", "ngram"],
            "expected at least 200",
        ),
        (["--kind", "column", "--sample", "0.1", "--extend", "ngram"], "'noise' has float"),
    ],
)
def test_bad_input_is_one_line(
    corpus: str, client: Client, arguments: list[str], message: str
) -> None:
    settings = ["--set", "column=noise"] if "column" in arguments else []
    scheduler = ["--scheduler", scheduler_address(client)]
    command = ["annotate", corpus, "--name", "a", *arguments, *settings, *scheduler]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
