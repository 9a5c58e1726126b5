"""Length of a text: its tokens and characters, counted by the tokenizer alone."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import polars as pl

from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.inputs.text_batches import check_text, texts_of
from trainers.inputs.token_ids import token_ids


@dataclass(frozen=True)
class Length:
    """Settings of the kind; `num_units` and the value are tokens, `num_characters` characters.

    Attributes:
        tokenizer: folder of a fast tokenizer, or its name on the hub.
        text: column of the text.
    """

    tokenizer: str
    text: str = "text"

    needs_target = False
    further_columns = ("num_units", "num_characters")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    def fit(self, context: FitContext) -> Fitted:
        """Check the tokenizer and the column."""
        token_ids(self.tokenizer, ["text"])
        values = [value for batch in context.pool_sample(256) for value in batch[self.text]]
        check_text(values, column=self.text, what="the corpus")
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Count tokens, without special tokens, and characters; null for what is not text."""
        texts, statuses = texts_of(samples[self.text])
        started = perf_counter()
        _, starts = token_ids(self.tokenizer, texts)
        seconds = perf_counter() - started
        counts = {
            "num_units": pl.Series(np.diff(starts), dtype=pl.UInt32),
            "num_characters": pl.Series([len(text) for text in texts], dtype=pl.UInt32),
        }
        is_text = pl.Series("status", statuses) != "unreadable"
        rows = pl.DataFrame(counts | {"status": statuses}).with_columns(
            value=pl.when(is_text).then(pl.col("num_units").cast(pl.Int64))
        )
        return Measured(rows, tokenise_seconds=seconds)
