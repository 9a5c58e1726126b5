"""Settings of where samples are: the corpus, held-out shards, and examples of what is wanted."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import Field, field_validator, model_validator

from attent_select.errors import InputError
from catalogs import storage
from catalogs.mixture import MixturePart, check_parts, with_mixture
from pipeline.config.validation import Section


class ShardSettings(Section):
    """Shards of held-out samples.

    Attributes:
        shards: URLs, folders or globs of Parquet files, Lance files or WebDataset tars.
    """

    shards: tuple[str, ...] = Field(min_length=1)

    @field_validator("shards")
    @classmethod
    def _absolute(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(storage.normalise(url) for url in shards)


class CorpusSettings(Section):
    """The corpus of a run: shards that it ingests itself, or the folder of a shared corpus.

    Attributes:
        shards: URLs, folders or globs of Parquet files, Lance files or WebDataset tars.
        path: folder of a corpus that `attent ingest` wrote; many runs can share it.
        mixture: named parts, whose shards are `shards`; the section may be the list itself.
        skip_damaged: leave out shards that cannot be read, instead of ending with an error.
    """

    shards: tuple[str, ...] | None = Field(default=None, min_length=1)
    mixture: tuple[MixturePart, ...] | None = None
    path: str | None = None
    skip_damaged: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, values: Any) -> Any:
        return with_mixture(values)

    @field_validator("mixture")
    @classmethod
    def _absolute_parts(
        cls, parts: tuple[MixturePart, ...] | None
    ) -> tuple[MixturePart, ...] | None:
        if parts is None:
            return None
        check_parts(parts)
        return tuple(
            replace(part, shards=tuple(map(storage.normalise, part.shards))) for part in parts
        )

    @field_validator("shards")
    @classmethod
    def _absolute_shards(cls, shards: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if shards is None else tuple(storage.normalise(url) for url in shards)

    @field_validator("path")
    @classmethod
    def _absolute_path(cls, path: str | None) -> str | None:
        return None if path is None else storage.normalise(path).rstrip("/")

    @model_validator(mode="after")
    def _one_source(self) -> "CorpusSettings":
        if (self.shards is None) == (self.path is None):
            raise InputError("expected exactly one of shards and path (of a shared corpus)")
        return self


@dataclass(frozen=True)
class TargetSettings:
    """Where the examples are.

    Attributes:
        shards: URLs, folders or globs of shards, JSON Lines or CSV files, with the columns that the
            annotation reads.
        kind_column: column with the kind of reference of each example.
        judge_share: share of the examples that judges; they do not make annotations.
        corpus_samples: random samples of the corpus that a run evaluates beside the judging
            examples: what the model forgets.
    """

    shards: tuple[str, ...]
    kind_column: str | None = None
    judge_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    corpus_samples: Annotated[int, Ge(1)] = 256
