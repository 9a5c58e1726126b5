"""Digests of annotations: the rounds of a run are selected by the same values, or accepted ones."""

import json
from collections.abc import Mapping

from attent_select.errors import CorpusMismatchError
from catalogs import AnnotationStore, IndexFile, storage
from catalogs.annotations.record_versions import versions_of
from catalogs.layout import Layout
from pipeline.runs.state import Run


def accept_annotations(run: str) -> None:
    """Accept the annotations that the corpus of a run has now, for the rounds to come."""
    store = AnnotationStore(run)
    digests = {record.name: record.digest for record in store.records()}
    storage.publish(Layout(run).accepted_annotations, json.dumps(digests, indent=2).encode())


def check_annotations(run: Run, round_number: int, digests: Mapping[str, str]) -> None:
    """Check the annotations that a round is selected by against those of the rounds before.

    Raises:
        CorpusMismatchError: one has other values than in the last round that used it, and these
            were not accepted.
    """
    accepted = accepted_digests(run.config.run)
    for name, digest in digests.items():
        number, before = _last_use(run, name, before=round_number)
        if before not in (None, digest) and accepted.get(name) != digest:
            versions = versions_of(AnnotationStore(run.config.run).layout(name))
            if any(version.digest == before for version in versions):
                continue  # completed for a new version of the corpus
            folder = run.config.run
            raise CorpusMismatchError(
                f"annotation {name} is now {digest}, but round {number} of {folder} was selected by"
                f" {before}: restore it with `attent annotate {folder} --name {name} --overwrite …`"
                " and its earlier settings, or accept the new values with `attent run"
                f" {folder} --accept-annotations`"
            )


def _last_use(run: Run, name: str, *, before: int) -> tuple[int | None, str | None]:
    """Return the last round that was selected by an annotation, and its digest then."""
    for number in reversed(range(before)):
        if run.is_selected(number):
            index = IndexFile.open(run.layout.index(number))
            if name in (used := index.provenance.get("annotations") or {}):
                return number, used[name]
    return None, None


def accepted_digests(run: str) -> dict[str, str]:
    """Return the digests that were accepted, by annotation."""
    url = Layout(run).accepted_annotations
    if storage.info(url) is None:
        return {}
    accepted: dict[str, str] = json.loads(storage.read(url))
    return accepted
