"""The shards of a dataset on the hub: what `datasets` would load as its training split."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hub_server import Hub, hub_server

from attent_select.errors import InputError
from catalogs.shard_search import find_shards, is_dataset, split_of

ROOT = "hf://datasets/org/name"
MAIN = "datasets/org/name@main"
CONVERTED = "datasets/org/name@refs/convert/parquet"
CONFIGS = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: "data/**/en-*.parquet"}
  - {split: test, path: [other/en-test.parquet]}
- config_name: de
  default: true
  data_files: "data/de-*"
---
# A dataset
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.endpoint})
        yield server


def put(hub: Hub, repository: str, *paths: str, readme: str | None = None) -> None:
    for path in paths:
        hub.put(repository, path, path.encode())
    if readme is not None:
        hub.put(repository, "README.md", readme.encode())


def paths_of(url: str) -> list[str]:
    return [stored.url.removeprefix(ROOT).lstrip("/") for stored in find_shards([url])]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", ".hidden"],
            ["data/train-0.parquet", "data/train-1.parquet"],
        ),
        (["train/a.tar", "val/b.tar", "dev.tar.gz"], ["train/a.tar"]),
        (["a.parquet", "b/latest.parquet", "notes.md"], ["a.parquet", "b/latest.parquet"]),
    ],
)  # fmt: skip
def test_the_training_split_is_known_by_the_names_of_its_files(
    hub: Hub, files: list[str], expected: list[str]
) -> None:
    put(hub, MAIN, *files, readme="# Without configurations")
    assert paths_of(ROOT) == expected


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (CONFIGS, ["data/de-0.parquet"]),
        (CONFIGS.replace("  default: true\n", "").replace("en\n", "default\n"),
         ["data/en-0.parquet", "data/x/en-1.parquet"]),
        ("---\nconfigs:\n- {config_name: x, data_dir: data/x}\n---\n", ["data/x/en-1.parquet"]),
    ],
)  # fmt: skip
def test_the_default_configuration_of_the_readme_is_read(
    hub: Hub, readme: str, expected: list[str]
) -> None:
    files = (
        "data/en-0.parquet",
        "data/x/en-1.parquet",
        "data/de-0.parquet",
        "other/en-test.parquet",
    )
    put(hub, MAIN, *files, readme=readme)
    assert paths_of(ROOT) == expected


def test_a_dataset_without_shards_is_read_as_the_hub_converted_it(hub: Hub) -> None:
    put(hub, MAIN, "data/train.csv", readme="# CSV")
    put(hub, CONVERTED, "default/partial-train/0000.parquet", "default/test/0000.parquet")
    assert paths_of(ROOT) == ["@refs/convert/parquet/default/partial-train/0000.parquet"]


def test_a_revision_and_other_urls_are_kept(hub: Hub) -> None:
    put(hub, "datasets/org/name@v1", "train.parquet", "test.parquet")
    assert paths_of(f"{ROOT}@v1/") == ["@v1/train.parquet"]
    assert paths_of(f"{ROOT}@v1/test.parquet") == ["@v1/test.parquet"]
    assert paths_of(f"{ROOT}@v1/t*") == ["@v1/test.parquet", "@v1/train.parquet"]


@pytest.mark.parametrize(
    ("files", "readme", "message"),
    [
        (
            ["test.parquet", "x.parquet"],
            None,
            "no training split, only files without a split, test",
        ),
        (
            ["a.csv", "b.csv", "c.json"],
            None,
            "no Parquet, tar or Lance files, only 2 .csv, 1 .json",
        ),
        ([], "# Nothing", "no Parquet, tar or Lance files, only 1 .md"),
        (["a.parquet"], CONFIGS.replace("  default: true\n", ""), r"2 configurations \(de, en\)"),
        (["a.parquet"], CONFIGS, "its README names data/de-*, which matches no"),
        (["a.parquet"], "---\n{\n---\n", "README.md: its front matter is not YAML"),
    ],
)
def test_a_dataset_that_cannot_be_chosen_from_is_named(
    hub: Hub, files: list[str], readme: str | None, message: str
) -> None:
    put(hub, MAIN, *files, readme=readme)
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        find_shards([ROOT])


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("Training/a.tar", "train"),
        ("x/validation.parquet", "validation"),
        ("dev_2.parquet", "validation"),
        ("test.parquet", "test"),
        ("latest/trainer.parquet", None),
    ],
)
def test_a_split_is_a_word_of_the_path(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_only_the_root_of_a_dataset_is_a_dataset() -> None:
    urls = ["datasets/org/name", "datasets/org/name@a/", "datasets/org/name/data", "buckets/o/n"]
    assert [is_dataset(f"hf://{url}") for url in urls] == [True, True, False, False]


def test_other_files_in_a_folder_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.parquet", "b.tar", "README.md", "c/notes.txt", "c/d.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def names(*patterns: str) -> list[str]:
        found = find_shards([str(tmp_path / pattern) for pattern in patterns])
        return [stored.url.removeprefix(f"{tmp_path}/") for stored in found]

    assert names("") == ["a.parquet", "b.tar", "c/d.parquet"]
    assert "left out files that are not shards: 1 × .md, 1 × .txt" in caplog.text
    # Files that are named are not left out, so that ingestion says what they are.
    assert names("README.md", "a.parquet") == ["README.md", "a.parquet"]
    assert names("c/notes.*", "c/d.*") == ["c/d.parquet", "c/notes.txt"]
    (tmp_path / "c" / "d.parquet").unlink()
    assert names("c") == ["c/notes.txt"]


def test_runs_and_catalogs_of_corpora_in_a_folder_are_no_shards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        *("a.parquet", "manifest.parquet", "members/0.parquet", "annotations/x/0.parquet"),
        *("runs/1/run.yaml", "runs/1/index/0.parquet", "runs/1/corpus/manifest.parquet"),
        *("begun/corpus/manifest.parquet", "begun/corpus/annotations/x/0.parquet"),
        "begun/target/judging.parquet",
        *("other/corpus/manifest.parquet", "other/corpus/shards/0.parquet"),
        *("other/b.parquet", "other/target/examples.parquet"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def names(*patterns: str) -> list[str]:
        found = find_shards([str(tmp_path / pattern) for pattern in patterns])
        return [stored.url.removeprefix(f"{tmp_path}/") for stored in found]

    assert names("") == [
        *("a.parquet", "other/b.parquet", "other/corpus/shards/0.parquet"),
        "other/target/examples.parquet",
    ]
    assert "left out 10 files that attent has written" in caplog.text
    assert names("*.parquet") == ["a.parquet"]
    assert names("manifest.parquet") == ["manifest.parquet"]
    with pytest.raises(InputError, match="has only files that attent has written"):
        names("runs")


def test_files_of_other_formats_are_those_of_the_training_split(hub: Hub) -> None:
    put(hub, MAIN, "train.jsonl", "dev.jsonl", "dataset_info.json", "a.txt")
    found = find_shards([ROOT], is_wanted=lambda url: ".json" in url)
    assert [stored.url for stored in found] == [f"{ROOT}/train.jsonl"]
