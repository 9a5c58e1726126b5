"""A saved model with the task that it is measured under, for annotations.

Checked on the driver before any work; loaded once in each worker process.
"""

import dataclasses
import difflib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from attent_select.errors import InputError, SampleError
from attent_select.plugins import load_plugin
from catalogs.shard_format import Sample
from trainers.hf.processors import check_same_tokens
from trainers.hf.saved_files import MODEL_FILES, PREPROCESSING_FILES, files_digest, local_files
from trainers.scoring.scorer import ScoringNotes, score_rows
from trainers.settings import ScoringSettings
from trainers.task import Task, prepare_each

TASKS: Final = "trainers.tasks"

# Samples that show whether a model fits.
_TRIED: Final = 8
_MISFITS: Final = (RuntimeError, ValueError, TypeError, IndexError, KeyError)


@dataclass(frozen=True)
class SavedModel:
    """The model saved at `path` (a folder, a URL or a name on the hub), under a task."""

    path: str
    task: Task

    def check(
        self,
        samples: Sequence[Sample],
        settings: ScoringSettings,
        *,
        task: Any = None,
        measured: str = "loss",
    ) -> None:
        """Load the model and measure some samples.

        Args:
            samples: of the corpus.
            settings: how batches are made.
            task: prepares and measures the samples. Default: the task of the model.
            measured: what it measures, for messages.

        Raises:
            InputError: the model does not fit the task or the samples.
        """
        model, task = self.load(), task or self.task
        prepared = list(prepare_each(task, samples, [None] * len(samples)))
        errors = [item for item in prepared if isinstance(item, SampleError)]
        if len(errors) == len(samples):
            raise InputError(
                f"{self}: the task cannot use any of {len(samples)} random samples of the corpus,"
                f" because {errors[0]}: check the columns of the task"
            )
        usable = [
            sample
            for sample, item in zip(samples, prepared, strict=True)
            if not isinstance(item, SampleError)
        ]
        notes, tried = ScoringNotes(), usable[:_TRIED]
        try:
            scores = score_rows(task, model, enumerate(tried), settings=settings, notes=notes)
        except _MISFITS as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self}: it does not take the samples: {reason}") from error
        if set(scores["status"]) <= {"unreadable", "nonfinite"}:
            reason = notes.unusable.examples[0].reason.replace("its loss", f"its {measured}")
            raise InputError(f"{self}: none of {len(tried)} samples has a {measured}: {reason}")

    def digests(self) -> dict[str, str]:
        """Return the digest of the model's files, and of the tokenizer's or processor's."""
        digests = {"model": _digest(self.path, MODEL_FILES, what="model")}
        for name in ("tokenizer", "processor"):
            if isinstance(path := getattr(self.task, name, None), str):
                digests[name] = _digest(path, PREPROCESSING_FILES, what=f"task.{name}")
        return digests

    def open(self, digests: Mapping[str, str]) -> torch.nn.Module:
        """Return the model in eval mode; a process keeps the one that it opened last.

        Raises:
            InputError: the files here are not those with the `digests`.
        """
        global _opened  # noqa: PLW0603
        with _lock:
            if _opened is None or _opened[0] != (self, dict(digests)):
                _opened = None
                self._check_files(digests)
                _opened = ((self, dict(digests)), self.load().eval())
            return _opened[1]

    def close(self) -> None:
        """Free the model if it is the one that this process keeps."""
        global _opened  # noqa: PLW0603
        with _lock:
            if _opened is not None and _opened[0][0] == self:
                _opened = None

    def __str__(self) -> str:
        return f"the model {self.path} under the task {type(self.task).__name__}"

    def load(self) -> torch.nn.Module:
        """Return the model, newly loaded on the CPU.

        Raises:
            InputError: it cannot be loaded, or does not fit the task.
        """
        if hasattr(self.task, "check"):
            self.task.check()
        with local_files(self.path, what="model") as folder:
            models = self.task.models({"path": str(folder)})
            try:
                if hasattr(models, "check"):
                    models.check()
                return models.load(folder)
            except InputError as error:
                hint = ""
                if (folder / "adapter_config.json").exists():
                    hint = ". It is an adapter: merge it into its base model with `attent export`"
                raise InputError(f"{self}: {error}{hint}") from error

    def _check_files(self, digests: Mapping[str, str]) -> None:
        here = self.digests()
        if differ := [name for name in here if here[name] != digests.get(name)]:
            raise InputError(
                f"the files of the {differ[0]} of {self} differ from those that the driver has:"
                " give every worker the same files, and do not change them meanwhile"
            )


_lock = threading.Lock()
_opened: tuple[tuple[SavedModel, dict[str, str]], torch.nn.Module] | None = None


def task_of(section: str | Mapping[str, Any], *, model: str, tokenizer: str | None) -> Task:
    """Return the task of a section `task`, or of its name; the default name is `causal_lm`.

    The default tokenizer is the model's, and the default text the column `text`.

    Raises:
        InputError: there is no such task, or a setting is wrong.
    """
    values = {"name": section} if isinstance(section, str) else dict(section)
    name = str(values.pop("name", "causal_lm"))
    plugin = load_plugin(TASKS, name)
    known = [f.name for f in dataclasses.fields(plugin)] if dataclasses.is_dataclass(plugin) else []
    if tokenizer is not None:
        if "tokenizer" not in known:
            raise InputError(f"the task {name} does not use a tokenizer: leave out --tokenizer")
        values["tokenizer"] = tokenizer
    if "tokenizer" in known and values.get("tokenizer") is None and "://" not in model:
        values["tokenizer"] = model
    if name == "causal_lm" and not values.keys() & {"text", "response", "messages"}:
        values["text"] = "text"
    if unknown := [key for key in values if known and key not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        raise InputError(f"task.{unknown[0]}: unknown key, {hint}")
    try:
        task: Task = plugin(**values)
    except TypeError as error:
        raise InputError(f"the task {name} cannot be made of {values}: {error}") from error
    return task


def resolved_section(section: str | Mapping[str, Any], task: Task) -> str | dict[str, Any]:
    """Return the section `task` with all settings of the task that was made of it."""
    name = section if isinstance(section, str) else section.get("name", "causal_lm")
    if not dataclasses.is_dataclass(task) or isinstance(task, type):
        return name if isinstance(section, str) else dict(section)
    return {"name": name, **dataclasses.asdict(task)}


def check_proxy(path: str, task: Task) -> None:
    """Check without weights that a saved model can measure the losses of a run.

    Raises:
        InputError: there is none, it does not take the task's inputs, or its tokenizer is another.
    """
    with local_files(path, what="model") as folder:
        models: Any = task.models({"path": str(folder)})
        if hasattr(models, "check_saved"):
            models.check_saved()
        if isinstance(tokenizer := getattr(task, "tokenizer", None), str):
            check_same_tokens(folder, tokenizer)


def _digest(path: str, patterns: tuple[str, ...], *, what: str) -> str:
    with local_files(path, what=what) as folder:
        return files_digest(folder, patterns)
