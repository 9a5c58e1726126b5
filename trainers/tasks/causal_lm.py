"""Causal language modelling: text, or a prompt and the response that is learned.

The loss of a sample is the mean over its counted tokens: all but the first of a text; those of the
response, and the end after it, of a prompt with a response; never padding. Not here: the arithmetic
of the loss (`trainers/token_loss.py`), loading the tokenizer (`trainers/hf/`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.evaluation import evaluating
from trainers.hf import HuggingFaceModels, load_tokenizer
from trainers.task import Batch, Item
from trainers.token_loss import IGNORED, token_losses, token_scores


@dataclass(frozen=True)
class CausalLm:
    """Settings of the task.

    `tokenizer` is a folder with a fast tokenizer. Name either the column `text`, or `prompt` and
    `response`; `template` is what stands before the response, with `{prompt}` in it. A sample
    longer than `max_length` tokens is cut at its end; one whose response does not begin before that
    is `too_long`, one with nothing to count is `empty`.
    """

    tokenizer: str
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    template: str = "{prompt}\n"
    max_length: int = 512

    def __post_init__(self) -> None:
        pair = (self.prompt is not None, self.response is not None)
        if (self.text is not None) == any(pair) or any(pair) != all(pair):
            raise InputError("name either the column `text`, or both `prompt` and `response`")
        if self.template.count("{prompt}") != 1:
            raise InputError(f"template is {self.template!r}: expected one {{prompt}} in it")
        if self.max_length < 2:
            raise InputError(f"max_length is {self.max_length}: expected at least 2 tokens")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.prompt, self.response) if name is not None)

    def models(self, settings: dict[str, Any]) -> HuggingFaceModels:
        """Models of `AutoModelForCausalLM`."""
        return HuggingFaceModels("AutoModelForCausalLM", settings, num_positions=self.max_length)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """`input_ids` and `labels` (-100: does not count) as lists; a token costs one unit."""
        tokenizer = load_tokenizer(self.tokenizer)
        before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if self.prompt is not None:
            text = self.template.replace("{prompt}", self._words(sample, self.prompt))
            before = before + self._tokens(text)
        counted = self._tokens(self._words(sample, self.response or self.text or ""))
        if not counted:
            raise SampleError("there is no token to count", status="empty")
        ids = [*before, *counted, *after]
        labels = [IGNORED] * len(before) + ids[len(before) :]
        ids, labels = ids[: self.max_length], labels[: self.max_length]
        if all(label == IGNORED for label in labels[1:]):
            if len(before) >= self.max_length:
                raise SampleError(
                    f"the prompt's {len(before)} tokens leave none of {self.max_length} to count",
                    status="too_long",
                )
            raise SampleError("a single token has nothing before it to go by", status="empty")
        truncated = len(before) + len(counted) + len(after) > self.max_length
        return {"input_ids": ids, "labels": labels, "truncated": truncated, "num_units": len(ids)}

    def collate(self, items: Sequence[Item]) -> Batch:
        """`input_ids`, `attention_mask`, `labels` int64[batch, tokens], padded on the right;
        `truncated` bool[batch].
        """
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        shape = (len(items), int(lengths.max()))
        batch = {
            "input_ids": torch.full(shape, self._padding(), dtype=torch.int64),
            "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).to(torch.int64),
            "labels": torch.full(shape, IGNORED, dtype=torch.int64),
            "truncated": torch.tensor([item["truncated"] for item in items]),
        }
        for place, item in enumerate(items):
            for name in ("input_ids", "labels"):
                batch[name][place, : lengths[place]] = torch.tensor(item[name])
        return batch

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean nats per counted token float32[batch], and their number int64[batch]."""
        nats, counted = token_losses(model, batch)
        num_units = counted.sum(dim=1)
        return nats.sum(dim=1) / num_units.clamp(min=1), num_units

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """`eval_loss` (nats per counted token), `perplexity`, and `accuracy` (share of the counted
        tokens that are the model's first choice).
        """
        total, nats_sum, hits_sum = 0, 0.0, 0
        with evaluating(model) as to_device:
            for batch in map(to_device, batches):
                nats, hits = token_scores(model, batch)
                nats_sum += nats.double().sum().item()
                hits_sum += int(hits.sum())
                total += len(hits)
        if not total:
            raise InputError("no token to evaluate: expected at least one held-out batch")
        loss = nats_sum / total
        return {
            "eval_loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": hits_sum / total,
        }

    def _words(self, sample: Sample, column: str) -> str:
        words = sample[column]
        if words is None:
            raise SampleError(f"column {column!r} is empty", status="empty")
        if not isinstance(words, str):
            raise SampleError(
                f"column {column!r} holds {type(words).__name__}: expected text",
                status="unreadable",
            )
        return words

    def _tokens(self, text: str) -> list[int]:
        # The backend and not the tokenizer itself, which changes shared state and has no lock.
        backend = load_tokenizer(self.tokenizer).backend_tokenizer
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeError) as error:  # half of a surrogate pair has no UTF-8
            raise SampleError(f"the text is not Unicode: {error}", status="unreadable") from error
        return ids

    def _padding(self) -> int:
        tokenizer = load_tokenizer(self.tokenizer)
        padding = tokenizer.pad_token_id
        # Padding is masked out of attention and loss, so the end token serves as well.
        padding = tokenizer.eos_token_id if padding is None else padding
        if padding is None:
            raise InputError(
                f"the tokenizer in {self.tokenizer} has neither a pad nor an eos token: set one in "
                "its tokenizer_config.json"
            )
        return int(padding)
