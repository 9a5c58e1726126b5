"""Setup of a run in a subprocess: checks the configuration and builds the initial model.

Tasks and models need torch and transformers, which take 400 MiB. The driver of a scoring job never
imports them: this subprocess does the setup and ends before scoring starts.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attent_select import errors
from attent_select.errors import AttentError
from pipeline.config import run_config
from pipeline.config.canonical_json import plain_values
from pipeline.config.sections import RunConfig
from pipeline.config.task_reference import TaskReference
from pipeline.runs.label_classes import classes_of, with_classes
from pipeline.runs.setup import SaveInitial, save_initial


@contextmanager
def setup_in_subprocess(
    source: str, *, overrides: Sequence[str], trust_run: bool = False
) -> Iterator[tuple[RunConfig, SaveInitial]]:
    """Yield the configuration at `source` and its `save_initial`, both done by a subprocess.

    The task of the configuration is a `TaskReference`. Raises what `run_config.load` raises.
    """
    path = [folder or str(Path.cwd()) for folder in sys.path]
    process = subprocess.Popen(
        # -P: without the working directory, which may not be importable here either.
        [sys.executable, "-P", "-m", "pipeline.runs.setup_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        # Ctrl-C interrupts this process, which terminates the subprocess.
        start_new_session=True,
    )
    with process:
        try:
            question = {"source": source, "overrides": list(overrides), "trust_run": trust_run}
            answer = _ask(process, question)
            reference = TaskReference(**answer["task"])
            config = run_config.restore(answer["values"], task=reference)
            yield config, lambda config: _save_initial(process, config)
        finally:
            process.terminate()


def _save_initial(process: "subprocess.Popen[str]", config: RunConfig) -> None:
    _ask(process, {"classes": classes_of(config)})
    # The subprocess ends, so its memory is free before the first span.
    process.communicate()


def _ask(process: "subprocess.Popen[str]", question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of the subprocess; raise what it raised."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended: reading finds no answer
        print(json.dumps(question), file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise AttentError(
            "the process that checks the configuration and builds the initial model ended with "
            f"status {process.wait()}: if there is no message above, it may have run out of memory"
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        kind, message = answer["error"]
        raise getattr(errors, kind)(message)
    return answer


def _describe(config: RunConfig) -> dict[str, Any]:
    task, values = config.task.task, config.to_plain_values()
    settings = {name: value for name, value in values["task"].items() if name != "name"}
    return {
        "values": values,
        "task": {
            "name": config.task.name,
            "settings": settings,
            "columns": list(task.columns),
            "hashed": plain_values({"task": task})["task"],
            "score_columns": list(getattr(task, "score_columns", ())),
        },
    }


def _answers() -> Iterator[dict[str, Any]]:
    """Yield the subprocess's answer to each question."""
    question = json.loads(sys.stdin.readline())
    config = run_config.load(**question)
    yield _describe(config)
    if line := sys.stdin.readline():
        # The corpus, and with it the classes, was not known before.
        save_initial(with_classes(config, json.loads(line)["classes"]))
        yield {}


def main() -> None:
    """Run the subprocess."""
    # Answers go to a copy of stdout; what a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for answer in _answers():
            print(json.dumps(answer), file=answers, flush=True)
    except AttentError as error:
        # The nearest error class that the parent process knows.
        kind = next(c for c in type(error).__mro__ if c.__module__ == errors.__name__)
        print(json.dumps({"error": [kind.__name__, str(error)]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
