"""Sending of finished rounds to the trackers of a run, each once.

A tracker shows what the run stores, so that a process that is killed loses nothing: what was not
sent is sent when the run is continued.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from functools import cache

from attent_select.errors import AttentError, InputError
from attent_select.plugins import load_plugin
from catalogs import checked_json, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.config.run_config import leaves
from pipeline.config.yaml_values import read_yaml
from pipeline.tracking.round_rows import tracked_round
from pipeline.tracking.tracker import PACKAGE, TRACKER_METHODS, TrackedRound, TrackedRun, Tracker

_log = logging.getLogger("attent.pipeline.tracking.sending")


def load_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """Return the trackers by name.

    Raises:
        InputError: the library of one is missing, or it cannot be used by this process.
    """
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = load_plugin(PACKAGE, name, methods=TRACKER_METHODS)()
            trackers[name].check()
        except AttentError as error:
            raise InputError(f"tracking: {error}; or remove {name} from the key") from error
    return trackers


def send_rounds(run: str, trackers: Mapping[str, Tracker]) -> None:
    """Send each tracker the finished rounds that it does not have.

    A tracker that fails does not stop the run: a warning says so, and the next call tries again.
    """

    @cache
    def rows_of(number: int) -> TrackedRound:
        return tracked_round(run, number)

    finished = metrics.table(run)["round"].to_list() if trackers else []
    for name, tracker in trackers.items():
        try:
            url = Layout(run).sent_rounds(name)
            run_id, sent = _read(url)
            tracked = TrackedRun(run_id, run, dict(leaves(read_yaml(Layout(run).config))))
            if missing := [number for number in finished if number not in sent]:
                tracker.send(tracked, [rows_of(number) for number in missing])
                _write(url, run_id, [*sent, *missing])
        except AttentError as error:
            _log.warning(f"tracking: {error}; `attent run {run}` sends what is missing")


def _read(url: str) -> tuple[str, list[int]]:
    """Return the id of the run and the rounds that were sent. A new id is stored first."""
    if storage.info(url) is None:
        _write(url, uuid.uuid4().hex, [])
    content = checked_json.load(storage.read(url), url=url)
    return str(content["id"]), list(content["rounds"])


def _write(url: str, run_id: str, rounds: Sequence[int]) -> None:
    storage.publish(url, checked_json.dump({"id": run_id, "rounds": rounds}))
