"""Length of a text: its tokens and characters, counted by the tokenizer alone.

With `task`, the units that a task counts: those of its losses, without computing any.
"""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from attent_select.errors import InputError, SampleError
from attent_select.extras import missing_extras_named
from attent_select.schema import NUM_UNITS, OK
from catalogs.shard_format import samples_of
from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.inputs.text_batches import check_text, texts_of
from trainers.inputs.token_ids import token_ids

_CHARACTERS = "num_characters"
# Samples that are collated together: padding is wasted.
_COLLATED = 32


@dataclass(frozen=True)
class Length:
    """Settings of the kind; `num_units` and the value are tokens, `num_characters` characters.

    Attributes:
        tokenizer: folder of a fast tokenizer, or its name on the hub.
        text: column of the text, or of chats, whose messages are counted without a template.
        task: a section `task` of a configuration, or the name of a task, which counts units
            instead: truncated, with its template, and without what it does not learn.
    """

    tokenizer: str
    text: str = "text"
    task: str | dict[str, Any] | None = field(default=None, hash=False)

    needs_target = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,) if self.task is None else tuple(self._task.columns)

    @property
    def further_columns(self) -> tuple[str, ...]:
        return (NUM_UNITS, _CHARACTERS) if self.task is None else (NUM_UNITS,)

    def fit(self, context: FitContext) -> Fitted:
        """Check the tokenizer and the column, or the task."""
        if self.task is not None:
            self._check_task()
            return Fitted()
        token_ids(self.tokenizer, ["text"])
        values = [value for batch in context.pool_sample(256) for value in batch[self.text]]
        check_text(values, column=self.text, what="the corpus")
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Count tokens, without special tokens, and characters; null for what is not text."""
        started = perf_counter()
        if self.task is not None:
            rows = self._count_units(samples)
            return Measured(rows, tokenise_seconds=perf_counter() - started)
        texts, statuses = texts_of(samples[self.text])
        started = perf_counter()
        _, starts = token_ids(self.tokenizer, texts)
        seconds = perf_counter() - started
        counts = {
            NUM_UNITS: pl.Series(np.diff(starts), dtype=pl.UInt32),
            _CHARACTERS: pl.Series([len(text) for text in texts], dtype=pl.UInt32),
        }
        is_text = pl.Series("status", statuses) != "unreadable"
        rows = pl.DataFrame(counts | {"status": statuses}).with_columns(
            value=pl.when(is_text).then(pl.col(NUM_UNITS).cast(pl.Int64))
        )
        return Measured(rows, tokenise_seconds=seconds)

    def _count_units(self, samples: Samples) -> pl.DataFrame:
        from trainers.task import prepare_each

        task = self._task
        rows = samples_of(samples, num_samples=len(samples[self.columns[0]]))
        prepared = list(prepare_each(task, rows, [None] * len(rows)))
        statuses = [item.status if isinstance(item, SampleError) else OK for item in prepared]
        items = [item for item in prepared if not isinstance(item, SampleError)]
        counted: list[int] = []
        for first in range(0, len(items), _COLLATED):
            batch = task.collate(items[first : first + _COLLATED])
            counted += task.counted_units(batch).tolist()
        units = iter(counted)
        values = [next(units) if status == OK else None for status in statuses]
        value = pl.Series("value", values, dtype=pl.Int64)
        num_units = value.fill_null(0).cast(pl.UInt32).alias(NUM_UNITS)
        return pl.DataFrame([value, num_units, pl.Series("status", statuses, dtype=pl.String)])

    def _check_task(self) -> None:
        if not hasattr(self._task, "counted_units"):
            name = type(self._task).__name__
            raise InputError(f"the task {name} counts no units: set the budget in samples")
        if hasattr(self._task, "check"):
            self._task.check()

    @property
    def _task(self) -> Any:
        with missing_extras_named():
            from trainers.scoring.saved_model import task_of

        assert self.task is not None
        section = {"name": self.task} if isinstance(self.task, str) else self.task
        return task_of(section, model=self.tokenizer, tokenizer=None)
