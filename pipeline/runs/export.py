"""Export of a run's model: a folder in the Hugging Face layout, with adapters merged."""

from pathlib import Path
from typing import Any

from attent_select.errors import ExistsError, InputError, MissingError
from catalogs import storage
from catalogs.layout import Layout
from pipeline.config import run_config


def export(
    run: str, *, out: str, round_number: int | None = None, trust_run: bool = False
) -> dict[str, Any]:
    """Write the model after a round (default: the last trained one) to the local folder `out`.

    The tokenizer and processor of the task are written beside it. With `trust_run`, code that
    run.yaml names is used. Returns `model` (the folder),
    `checkpoint` (its URL) and `step`.

    Raises:
        MissingError: the round was not trained.
        DamagedError: a file of the checkpoint is not what was saved.
        ExistsError: `out` is not empty.
        InputError: `out` is not a local folder, or the task's models cannot be exported.
    """
    from trainers import checkpoint
    from trainers.hf import save_plain, save_preprocessing

    config = run_config.load(run, trust_run=trust_run, sections=("task", "model"))
    layout = Layout(config.run)
    number = _last_trained(layout) if round_number is None else round_number
    opened = checkpoint.open(layout.checkpoint(number))
    if opened is None:
        raise MissingError(f"{run}: round {number} was not trained: run `attent train {run}` first")
    folder = _empty_folder(out)
    task = config.task.task
    models = task.models(config.model)
    with opened.local() as files:
        model = opened.load(models, folder=files)  # checks the weights
        folder.mkdir(parents=True, exist_ok=True)
        save_plain(models, files, folder, model=model)
    for name in ("tokenizer", "processor"):
        if (source := getattr(task, name, None)) is not None:
            template = getattr(task, "chat_template", None)
            save_preprocessing(str(source), folder, chat_template=template)
    return {"model": str(folder), "checkpoint": opened.url, "step": opened.step}


def _last_trained(layout: Layout) -> int:
    from trainers import checkpoint

    number = 0
    while checkpoint.open(layout.checkpoint(number + 1)) is not None:
        number += 1
    return number


def _empty_folder(out: str) -> Path:
    """Return the path of a folder that is empty, or does not exist yet."""
    url = storage.normalise(out)
    if not storage.is_local(url):
        raise InputError(f"--out {out}: expected a local folder")
    folder = Path(url)
    if folder.exists() and any(folder.iterdir()):
        raise ExistsError(f"{folder} is not empty: choose another folder, or remove it first")
    return folder
