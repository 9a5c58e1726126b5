"""Every module imported, and every stage of two tiny runs, with whatever versions are installed.

`python -P tests/packaging/smoke.py FOLDER`; used by `make test-lowest`, and by hand for another
Python. The second run trains an adapter on the model of the first.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import yaml

PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")
TASK = {"name": "image_classification", "image_size": 8, "num_channels": 1}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "num_labels": 10,
}


def import_everything() -> int:
    """Import all modules of the four packages; return their number."""
    count = 0
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                count += 1
    return count


def attent(*arguments: object, folder: Path) -> dict[str, Any]:
    """The answer of `attent ARGUMENTS --json`."""
    command = [sys.executable, "-P", "-m", "attent_select", *map(str, arguments), "--json"]
    print("attent", *arguments, flush=True)  # noqa: T201
    environment = os.environ | {"ATTENT_TRACEBACK": "1"}
    stdout = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
    ).stdout
    answer: dict[str, Any] = json.loads(stdout)
    return answer


def write_digits(path: Path, *, start: int, num_samples: int) -> None:
    """One shard of handwritten digits as PNG images."""
    import io

    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = []
    for pixels in digits.images[start : start + num_samples]:
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15).astype("uint8")).save(buffer, "PNG")
        images.append(buffer.getvalue())
    labels = digits.target[start : start + num_samples].tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"image": images, "label": labels}).write_parquet(path)


def write_config(folder: Path, name: str, *, model: dict[str, Any]) -> Path:
    """A configuration of two rounds."""
    values = {
        "run": str(folder / name),
        "corpus": {"shards": [str(folder / "shards")]},
        "evaluation": {"shards": [str(folder / "held-out")]},
        "task": TASK,
        "model": model,
        "schedule": {"epochs": 2, "warmup_epochs": 1, "ratio": {"start": 0.5}},
        "scoring": {"span_samples": 40},
        "training": {"batch_size": 16, "torch_threads": 1},
        "cluster": {"workers": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def main(folder: Path) -> None:
    """Import everything, then run every stage in the new folder `folder`."""
    print(f"{import_everything()} modules imported", flush=True)  # noqa: T201
    for number in range(2):
        write_digits(folder / f"shards/{number}.parquet", start=60 * number, num_samples=60)
    write_digits(folder / "held-out/0.parquet", start=120, num_samples=30)
    tar = attent(
        "ingest", folder / "shards", "--convert", "webdataset", "--out", "tar", folder=folder
    )
    assert tar["num_samples"] == 120
    run = folder / "vit"
    config = write_config(folder, "vit", model={"config": VIT})
    scored = attent("score", config, "--round", "0", folder=folder)
    assert scored["scored"] == 120
    result = attent("run", config, folder=folder)
    assert [round_["round"] for round_ in result["rounds"]] == [0, 1]
    index = folder / "index.parquet"
    selected = attent("select", run, "--ratio", "0.25", "--out", index, folder=folder)
    assert selected["selected"] == 30
    for option in ("--plan", "--digest"):
        stream = ("stream", run, "--index", index, "--batch-size", "8", option)
        assert attent(*stream, folder=folder)["num_steps"] == 4
    rows = attent("query", run, "SELECT count(*) FROM losses", folder=folder)["rows"]
    assert rows == [[120]]
    attent("antk", run, "--probe", "4", "--round", "1", folder=folder)
    assert Path(attent("report", run, "--png", folder=folder)["report"]).stat().st_size > 100_000
    attent("export", run, "--out", "model", folder=folder)
    lora = {"path": str(folder / "model"), "lora": {"rank": 2, "alpha": 4}}
    attent("run", write_config(folder, "lora", model=lora), folder=folder)
    assert attent("doctor", run, folder=folder)["ok"]
    attent("gc", run, folder=folder)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1]).resolve()
    FOLDER.mkdir()
    main(FOLDER)
