"""Loss of a saved model under a task, as scoring measures it: a reference loss, for example.

    value(x) = ℓ(θ, x), in nats, the mean over the units of x that the task counts

With `fit`, the model is first fitted to a target. Its loss is then the conditional loss, and that
of the model as it was saved the prior loss. The difference, prior − conditional, is largest where
the target teaches the most about x (Brandfonbrener, Zhang, Kirsch, Schwarz and Kakade, "CoLoR-
Filter: Conditional Loss Reduction Filtering for Targeted Language Model Pre-training", NeurIPS
2024).

Source: a reference model's loss selects in Mindermann et al., "Prioritized Training on Points that
are Learnable, Worth Learning, and Not Yet Learnt" (ICML 2022), and its perplexity in Marion et al.,
"When Less is More: Investigating Data Pruning for Pretraining LLMs at Scale" (2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl
import torch

from attent_select.schema import LOSS, NUM_UNITS, STATUS
from catalogs.shard_format import Sample, samples_of
from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.fitting.example_fit import ExampleFit, fit_to_examples
from trainers.scoring.hidden_states import HiddenStates
from trainers.scoring.saved_model import SavedModel, resolved_section, task_of
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.settings.bounds import Dtype, Positive, check_fields


@dataclass(frozen=True)
class Loss:
    """Settings of the kind. `num_units` is stored beside the value.

    Attributes:
        model: a saved model: a folder, a URL or a name on the hub.
        task: a section `task` of a configuration, or the name of a task; of `causal_lm` the text
            is in the column `text` unless the section names another.
        tokenizer: of the task, where it uses one; default: the model's.
        batch_units: most units of a forward pass, padding included.
        dtype: autocast of the forward pass; losses are float32.
        fitting: how the model is first fitted to the half of the target that makes annotations,
            in a configuration under the key `fit`. Default: the model is used as it is, without a
            target.
    """

    model: str
    task: str | dict[str, Any] = field(default="causal_lm", hash=False)
    tokenizer: str | None = None
    batch_units: Positive = 16_384
    dtype: Dtype = "float32"
    fitting: ExampleFit | None = None

    smallest_first = True
    further_columns = (NUM_UNITS,)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "task", resolved_section(self.task, self._saved.task))

    @property
    def needs_target(self) -> bool:
        return self.fitting is not None

    @property
    def columns(self) -> tuple[str, ...]:
        return self._saved.task.columns

    @property
    def hidden(self) -> HiddenStates:
        """The hidden states of the model as it was saved, which extend losses of a sample."""
        return HiddenStates.of(
            self.model,
            self.task,
            tokenizer=self.tokenizer,
            batch_units=self.batch_units,
            dtype=self.dtype,
        )

    def file_digests(self) -> Mapping[str, str]:
        """Return the digests of the model and of its tokenizer or processor."""
        return self._saved.digests()

    def fit(self, context: FitContext) -> Fitted:
        """Check that the model fits the task and the corpus; fit it to the target if that is set.

        The record has the digest of the fitted weights as `fitted`, and that of what they were
        fitted to as `fit`.
        """
        samples = [sample for batch in context.pool_sample(256) for sample in _samples(batch)]
        self._saved.check(samples, self._scoring)
        digests, notes = dict(self.file_digests()), {"task": repr(self._saved.task)}
        if self.fitting is not None:
            assert context.target is not None
            checkpoint = fit_to_examples(
                self._saved,
                _samples(context.target.samples),
                how=self.fitting,
                folder=context.folder,
                seed=context.seed,
            )
            notes["fitted"] = checkpoint.url
            digests["fit"] = checkpoint.url.rpartition("/")[2]
            digests["fitted"] = replace(self._saved, path=checkpoint.url).digests()["model"]
        return Fitted(notes=notes, digests=digests)

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the loss of each sample, its units and its status."""
        torch.set_num_threads(self._scoring.torch_threads)
        saved, digests = self._saved, dict(fitted.digests)
        if "fitted" in fitted.notes:
            saved = replace(saved, path=fitted.notes["fitted"])
            digests["model"] = digests["fitted"]
        scores = score_rows(
            saved.task,
            saved.open(digests),
            enumerate(_samples(samples)),
            settings=self._scoring,
        )
        return Measured(scores.select(pl.col(LOSS).alias("value"), NUM_UNITS, STATUS))

    @cached_property
    def _saved(self) -> SavedModel:
        task = task_of(self.task, model=self.model, tokenizer=self.tokenizer)
        return SavedModel(self.model, task)

    @property
    def _scoring(self) -> ScoringSettings:
        return ScoringSettings(batch_units=self.batch_units, dtype=self.dtype)


def _samples(columns: Samples) -> list[Sample]:
    return samples_of(columns, num_samples=len(next(iter(columns.values()))))
