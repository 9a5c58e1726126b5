"""The model of a run as a plain folder in the Hugging Face layout, adapters merged into it."""

from pathlib import Path
from typing import Any

from attent_select.errors import ExistsError, InputError, MissingError
from catalogs import storage
from catalogs.layout import Layout
from pipeline.config import run_config


def export(run: str, *, out: str, round_number: int | None = None) -> dict[str, Any]:
    """Writes the model after a round (default: the last trained one) to the local folder `out`.

    Tokenizer and processor of the task are put beside it. Returns `model` (the folder),
    `checkpoint` (its URL) and `step`.

    Raises:
        MissingError: the round was not trained.
        ExistsError: there is something in `out`.
        InputError: `out` is not a local folder, or the task's models cannot be exported.
    """
    from trainers import checkpoint as checkpoints
    from trainers.hf import save_plain, save_preprocessing

    config = run_config.load(run)
    layout = Layout(config.run)
    number = _last_trained(layout) if round_number is None else round_number
    found = checkpoints.open(layout.checkpoint(number))
    if found is None:
        raise MissingError(
            f"{run}: round {number} was not trained: `attent train {run}` does that first"
        )
    folder = _empty(out)
    task = config.task.task
    with found.local() as files:
        save_plain(task.models(config.model), files, folder)
    for name in ("tokenizer", "processor"):
        if (source := getattr(task, name, None)) is not None:
            save_preprocessing(str(source), folder)
    return {"model": str(folder), "checkpoint": found.url, "step": found.step}


def _last_trained(layout: Layout) -> int:
    from trainers import checkpoint as checkpoints

    number = 0
    while checkpoints.open(layout.checkpoint(number + 1)) is not None:
        number += 1
    return number


def _empty(out: str) -> Path:
    url = storage.normalise(out)
    if not storage.is_local(url):
        raise InputError(f"--out {out}: expected a local folder")
    folder = Path(url)
    if folder.exists() and any(folder.iterdir()):
        raise ExistsError(f"{folder} is not empty: choose another folder, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
