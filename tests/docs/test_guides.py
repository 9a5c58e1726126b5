"""The guides of docs/ that need a bucket or a saved model run as they are written."""

import re
import shlex
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
import yaml
from commands import ROOT, answer_here
from digits import samples
from raw_text import junk, prose
from saved_models import save_language_model
from servers import moto_s3

from catalogs.formats.webdataset import Webdataset

S3, NOISY = ((ROOT / "docs" / name).read_text() for name in ("s3.md", "noisy_instructions.md"))


def commands_of(page: str) -> list[list[str]]:
    """The commands of the blocks of a page, without the program and comments."""
    lines = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_shards_in_a_bucket_are_selected_and_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"png": each["image"], "cls": each["label"]} for each in samples(400)]
    with moto_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = boto3.resource("s3", endpoint_url=server.endpoint).create_bucket(
            Bucket="my-bucket"
        )
        for number in range(2):
            Webdataset().write(tmp_path / "shard.tar", rows[number::2])
            bucket.upload_file(str(tmp_path / "shard.tar"), f"corpus/{number}.tar")
        ingested, _, planned, streamed = [answer_here(*command) for command in commands_of(S3)]
    assert ingested["num_samples"] == 400
    assert planned["num_samples"] == streamed["num_samples"] == 40


def test_instructions_are_chosen_by_what_checked_pairs_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(save_language_model(tmp_path / "model"))
    (block,) = re.findall(r"```yaml\n(.*?)```", NOISY, re.DOTALL)
    config = block.replace("/data/", f"{tmp_path}/").replace("HuggingFaceTB/SmolLM2-135M", model)
    values: dict[str, Any] = yaml.safe_load(config)
    values["task"]["max_length"] = 32
    values["annotations"]["fitted_loss"]["fit"]["epochs"] = values["schedule"]["epochs"] = 1
    Path("instructions.yaml").write_text(yaml.safe_dump(values))
    answers = prose(120)
    write_pairs(Path("instructions/0.parquet"), [*answers[:60], *junk(140)])
    write_pairs(Path("checked.parquet"), answers[60:])
    for command in commands_of(NOISY):
        answer_here(*command)
    assert "target_loss" in Path("runs/instructions/report.html").read_text()


def write_pairs(path: Path, answers: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame({"instruction": ["Continue."] * len(answers), "output": answers}).write_parquet(
        path
    )
