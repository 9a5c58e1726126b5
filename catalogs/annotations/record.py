"""Record of an annotation, `annotation.json`: what it holds and how it was made. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from attent_select import __version__
from attent_select.errors import InputError
from catalogs import checked_json

RECORD_VERSION: Final = 1


@dataclass(frozen=True)
class AnnotationPart:
    """One part file: dense rows of the shards `first_shard` … `last_shard`."""

    part: str
    first_shard: int
    last_shard: int
    num_rows: int


@dataclass(frozen=True)
class Annotation:
    """A finished annotation.

    Attributes:
        name: the name of its value column in SQL.
        kind: what made it, such as `ngram`.
        corpus_id: the corpus that it belongs to.
        num_rows: number of samples, those without a value included.
        value_type: polars dtype of the value: Float32, Int64, String or Boolean.
        columns: stored column (`value` and further ones) → polars dtype.
        parts: part files in shard order.
        digest: of the sorted rows: the annotation's identity, however it was cut into parts.
        coverage: share of the rows with a value.
        settings: resolved settings of the kind.
        digests: digests of what it was made from: `target`, `model`, `tokenizer`, …
        annotations: annotation that it was computed from → its digest.
        statuses: status → number of rows.
        seconds: time by step: `fit`, `measure`, `tokenise`, `total`.
        units: number of units measured.
        fidelity: how well it extends a sample: correlations and errors.
        enrichment: what selecting by it is expected to gain.
        created_by: version of this project.
    """

    name: str
    kind: str
    corpus_id: str
    num_rows: int
    value_type: str
    columns: Mapping[str, str]
    parts: tuple[AnnotationPart, ...]
    digest: str
    coverage: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    units: int = 0
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    enrichment: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = __version__
    schema_version: int = RECORD_VERSION

    @property
    def num_shards(self) -> int:
        """Number of shards of the corpus that it was made for."""
        return max(part.last_shard for part in self.parts) + 1

    def to_json(self) -> str:
        """Return the text of `annotation.json`."""
        return checked_json.dump(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes, *, url: str) -> "Annotation":
        """Parse `annotation.json`.

        Raises:
            InputError: it is damaged, or was written by a newer version.
        """
        try:
            version = json.loads(text)["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{url} is not the record of an annotation ({error!r}): restore it, or make the"
                " annotation again"
            ) from error
        if version != RECORD_VERSION:
            raise InputError(
                f"{url} has schema version {version}, expected {RECORD_VERSION}: update"
                f" attent-select (this is {__version__}), or make the annotation again"
            )
        values = checked_json.load(text, url=url)
        try:
            parts = tuple(AnnotationPart(**part) for part in values.pop("parts"))
            return cls(parts=parts, **values)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{url} is not a complete record ({error}): restore it, or make the annotation"
                " again"
            ) from error
