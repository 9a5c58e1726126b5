"""Labels that are not numbers: the run keeps which class number each of them has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from digits import samples, write_corpus
from small_runs import small_run

from attent_select.errors import InputError
from catalogs.shard_format import Sample
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.doctor.first_shard import inspect_first_shard
from pipeline.runs.label_classes import classes_of, with_shard_classes
from pipeline.runs.state import prepare

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def labelled(label_of: Callable[[int], Any]) -> list[Sample]:
    return [{**sample, "label": label_of(sample["label"])} for sample in samples(60)]


def configuration(folder: Path, **settings: Any) -> RunConfig:
    """The configuration of a run in `folder`, of the shards beside it."""
    shards = [str(folder / "shards")]
    values = small_run(folder / "run", folder, corpus__shards=shards, evaluation=None, **settings)
    return run_config.parse(values)


@pytest.mark.parametrize(
    ("label_of", "classes"),
    [
        (WORDS.__getitem__, sorted(WORDS)),
        (lambda label: label / 2, ["0", "0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5"]),
        (float, None),
        (lambda label: label > 4, None),
    ],
    ids=["text", "fractions", "whole numbers as floats", "bool"],
)
def test_a_new_run_keeps_the_classes_of_its_labels(
    tmp_path: Path, client: Client, label_of: Callable[[int], Any], classes: list[str] | None
) -> None:
    rows = labelled(label_of)
    write_corpus(tmp_path / "shards", rows)
    config = configuration(tmp_path)
    ready = prepare(config, cluster=lambda: client)
    kept = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["task"]["classes"]
    assert kept == classes
    label = label_of(3)
    number = (
        int(label) if classes is None else classes.index(f"{label:g}" if label == 1.5 else label)
    )
    sample = next(row for row in rows if row["label"] == label)
    assert ready.config.task.task.prepare(sample, generator=None)["label"] == number
    # The configuration without classes resumes the run.
    assert prepare(config, cluster=lambda: client).config == ready.config


def test_labels_of_tars_and_of_the_first_shard_have_classes(tmp_path: Path, client: Client) -> None:
    rows = [{"image": row["image"], "txt": row["label"]} for row in labelled(WORDS.__getitem__)]
    write_corpus(tmp_path / "shards", rows, kind="webdataset")
    config = configuration(tmp_path, task__label="txt")
    shard, _ = inspect_first_shard(config.corpus, str(tmp_path))
    first = with_shard_classes(config, shard)
    assert classes_of(first) == tuple(sorted({row["txt"] for row in rows[:20]}))
    ready = prepare(config, cluster=lambda: client)
    assert classes_of(ready.config) == tuple(sorted(WORDS))


def write_class_labels(path: Path, names: list[str]) -> None:
    """A file as `datasets` writes it, with the names of its classes."""
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.Table.from_pylist(samples(30))
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)


def test_the_names_of_a_class_label_are_kept(tmp_path: Path, client: Client) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_class_labels(tmp_path / "shards" / name, list(WORDS))
    config = prepare(configuration(tmp_path), cluster=lambda: client).config
    assert classes_of(config) == WORDS


def test_shards_that_name_the_numbers_differently_are_refused(
    tmp_path: Path, client: Client
) -> None:
    write_class_labels(tmp_path / "shards" / "a.parquet", list(WORDS))
    write_class_labels(tmp_path / "shards" / "b.parquet", list(WORDS[::-1]))
    with pytest.raises(InputError, match=r"class names in .*\.parquet than in .*\.parquet"):
        prepare(configuration(tmp_path), cluster=lambda: client)
    # Named classes settle it.
    config = configuration(tmp_path, task__classes=list(WORDS))
    assert classes_of(prepare(config, cluster=lambda: client).config) == WORDS
