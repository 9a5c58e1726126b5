"""Causal language modelling: a text, a prompt with its response, or a chat.

The loss of a sample is the mean over its counted tokens. These are all tokens of a text except the
first; the response and the end token after it; the assistant's messages in a chat. Padding never
counts.

A sample is one text, which is tokenised once: the tokens are those of the tokenizer for the whole
text, and in a chat those of its `apply_chat_template`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import load_tokenizer, model_store, packs_exactly
from trainers.inputs import text as texts
from trainers.inputs import tokens
from trainers.inputs.chat_messages import chat_in
from trainers.inputs.chat_turns import check_template, rendered_chat, turns_in
from trainers.scoring.evaluation import TokenSums, eval_mode
from trainers.scoring.functional_gradient import rms_over_units
from trainers.scoring.generation import count_matches
from trainers.scoring.token_loss import (
    IGNORED,
    mean_over_tokens,
    token_gradients,
    token_logits,
    token_losses,
    token_scores,
)
from trainers.task import Batch, Item, Models


@dataclass(frozen=True)
class CausalLm:
    """Causal language modelling: a text, a prompt with its response, or a chat.

    A sample is one of `text`, `response` and `messages`. With `packing`, samples are computed side
    by side instead of padded, without attention across them: with the same losses and gradients. A
    sample without counted tokens, before or after truncation, is `empty`.

    Attributes:
        tokenizer: a folder with a fast tokenizer, or a name on the hub; default: that of the model.
        text: a column of text, all of which is learned.
        prompt: the column that `{prompt}` in the template stands for.
        response: a column that is learned, after the template filled with other columns.
        template: text before the response; names in braces are columns.
        messages: a column of chat messages, formatted by the tokenizer's chat template.
        train_on: of messages, `all_assistant` count, or only the `last` of them.
        chat_template: a Jinja template that replaces the tokenizer's.
        tools: a column of tools (JSON schemas) that the chat template describes.
        chat_template_kwargs: other variables of the chat template: a column, or the same for all.
        max_length: most tokens of a sample.
        truncate: truncate longer samples at their end, and count them; `false`: they are
            `too_long`.
        packing: compute samples side by side instead of padded.
        answer: a regular expression. Evaluation also generates for every held-out prompt, and
            compares the last match (its group, if it has one) with that of the response.
        max_new_tokens: most tokens that evaluation generates for a prompt.
    """

    tokenizer: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    template: str = "{prompt}\n"
    messages: str | None = None
    train_on: Literal["all_assistant", "last"] = "all_assistant"
    chat_template: str | None = None
    tools: str | None = None
    chat_template_kwargs: str | Mapping[str, Any] | None = field(default=None, hash=False)
    max_length: int = 512
    truncate: bool = True
    packing: bool = False
    answer: str | None = None
    max_new_tokens: int = 256

    draws = False  # nothing is random

    def __post_init__(self) -> None:
        if sum(name is not None for name in (self.text, self.response, self.messages)) != 1:
            raise InputError(
                "set exactly one of `text`, `response` (with a template) and `messages`"
            )
        names = texts.template_fields(self.template)
        if self.prompt is not None and (self.response is None or "prompt" not in names):
            raise InputError(
                f"prompt is {self.prompt!r}: expected a `response` beside it and {{prompt}} in the "
                f"template, which is {self.template!r}"
            )
        if self.max_length < 2:
            raise InputError(f"max_length is {self.max_length}: expected at least 2 tokens")
        self._check_chat()
        self._check_answer()

    def _check_chat(self) -> None:
        chat_only = [
            name
            for name in ("chat_template", "tools", "chat_template_kwargs")
            if getattr(self, name) is not None
        ]
        if chat_only and self.messages is None:
            raise InputError(f"{chat_only[0]} needs a chat: set `messages`")
        if self.train_on not in ("all_assistant", "last"):
            raise InputError(f"train_on is {self.train_on!r}: expected all_assistant or last")

    def _check_answer(self) -> None:
        if self.answer is None:
            return
        if self.text is not None:
            raise InputError("answer needs a response: set `response` or `messages`, not `text`")
        try:
            re.compile(self.answer)
        except re.error as error:
            raise InputError(f"answer is not a regular expression: {error}") from error
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}: expected at least 1")

    @property
    def columns(self) -> tuple[str, ...]:
        if self.messages is not None:
            variables = self.chat_template_kwargs
            names = (self.messages, self.tools, variables if isinstance(variables, str) else None)
            return tuple(dict.fromkeys(name for name in names if name is not None))
        if self.text is not None:
            return (self.text,)
        assert self.response is not None
        return tuple(dict.fromkeys([*self._template_columns.values(), self.response]))

    def check(self) -> None:
        """Check the tokenizer.

        Raises:
            InputError: it is missing, or lacks padding or a chat template.
        """
        texts.padding_of(self._tokenizer, path=self._path)
        if self.messages is not None:
            check_template(self._tokenizer, template=self.chat_template)

    def check_model(self, model: torch.nn.Module) -> None:
        """Compare packed samples with single ones, before the model is trained."""
        self.pads(model)

    def pads(self, model: torch.nn.Module) -> bool:
        """Whether `packing` is set and the model cannot keep packed samples apart."""
        return self.packing and not packs_exactly(model)

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of `AutoModelForCausalLM`."""
        return model_store(
            "AutoModelForCausalLM",
            settings,
            num_positions=self.max_length,
            num_tokens=len(self._tokenizer),
        )

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `input_ids` and `labels` (-100: not counted) as lists; a token costs one unit."""
        (item,) = self.prepare_all([sample])
        if isinstance(item, SampleError):
            raise item
        return item

    def prepare_all(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return what `prepare` returns or raises for each sample, with all texts tokenised at
        once.
        """
        text_of = self._text_of()
        texts_or_errors: list[tokens.Text | SampleError] = []
        for sample in samples:
            try:
                texts_or_errors.append(text_of(sample))
            except SampleError as error:
                texts_or_errors.append(error)
        return tokens.items_of(
            self._tokenizer,
            texts_or_errors,
            max_length=self.max_length,
            truncate=self.truncate,
        )

    def length(self, sample: Sample) -> int:
        """Return the approximate length of a sample, without tokenising it."""
        return sum(len(str(sample[name])) for name in self.columns)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `input_ids`, `attention_mask`, `labels` int64[batch, tokens], padded on the right,
        and `truncated` bool[batch].
        """
        return texts.pad(items, padding=texts.padding_of(self._tokenizer, path=self._path))

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.columns

    def prepare_inputs(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return what `prepare_all` returns: the response is part of the text."""
        return self.prepare_all(samples)

    def collate_inputs(self, items: Sequence[Item]) -> tuple[Batch, torch.Tensor]:
        """Return tokens and mask, and the number of counted tokens int64[batch]."""
        batch = self.collate(items)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return inputs, self.counted_units(batch)

    def counted_units(self, batch: Batch) -> torch.Tensor:
        """Return the number of counted tokens int64[batch]."""
        return (batch["labels"][:, 1:] != IGNORED).sum(dim=1)

    def share_of(self, item: Item, *, share: float) -> Item:
        """Return the item up to the last of the first `share` of its counted tokens."""
        return tokens.first_share(item, share=share)

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean nats per counted token float32[batch], and their number int64[batch]."""
        return mean_over_tokens(*self.token_losses(model, batch))

    def token_losses(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nats float32[batch, tokens - 1], 0 for tokens that do not count, and which count
        bool[batch, tokens - 1].
        """
        return token_losses(model, batch, packing=self.packing)

    def text_of_tokens(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the logits of each counted token."""
        nats, norms, counted = token_gradients(model, batch, packing=self.packing)
        return *mean_over_tokens(nats, counted), rms_over_units(norms, counted)

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean logit of the counted tokens themselves, float[batch]."""
        return mean_over_tokens(*token_logits(model, batch, packing=self.packing))[0]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss` (nats per counted token), `perplexity`, `accuracy` (share of the
        counted tokens that are the model's first choice), and with `answer` `exact_match`.
        """
        sums, hits, expected = TokenSums(), 0, 0
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                sums.add(*token_scores(model, batch, packing=self.packing))
                if self.answer is not None:
                    batch_hits, batch_expected = self._count_matches(model, batch)
                    hits, expected = hits + batch_hits, expected + batch_expected
        return sums.metrics() | ({"exact_match": hits / expected} if expected else {})

    def _count_matches(self, model: torch.nn.Module, batch: Batch) -> tuple[int, int]:
        assert self.answer is not None
        return count_matches(
            model,
            batch,
            tokenizer=self._tokenizer,
            padding=texts.padding_of(self._tokenizer, path=self._path),
            pattern=self.answer,
            max_new_tokens=self.max_new_tokens,
        )

    def _text_of(self) -> Callable[[Sample], tokens.Text]:
        """Return what makes the whole text of a sample, and says which of its characters count."""
        if self.messages is not None:
            return partial(self._chat, column=self.messages)
        if (column := self.text) is not None:
            return lambda sample: tokens.Text(tokens.check_text(texts.text_in(sample, column)))
        assert self.response is not None
        return partial(self._answer, columns=[*self._template_columns.items()], last=self.response)

    def _answer(
        self, sample: Sample, *, columns: Sequence[tuple[str, str]], last: str
    ) -> tokens.Text:
        prompt = self.template.format_map(
            {name: texts.text_in(sample, column) for name, column in columns}
        )
        text = tokens.check_text(prompt + texts.text_in(sample, last))
        return tokens.Text(text, ((len(prompt), len(text)),))

    def _chat(self, sample: Sample, *, column: str) -> tokens.Text:
        chat = chat_in(sample, column, tools=self.tools, variables=self.chat_template_kwargs)
        turns = turns_in(chat.messages) if self.train_on == "last" else []
        text, spans = rendered_chat(
            self._tokenizer, chat, template=self.chat_template, first=turns[-1] if turns else 0
        )
        return tokens.Text(tokens.check_text(text), spans, has_ends=True)

    @property
    def _path(self) -> str:
        return texts.tokenizer_path(self.tokenizer)

    @property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._path)

    @property
    def _template_columns(self) -> dict[str, str]:
        """Column of each name in the template."""
        names = texts.template_fields(self.template)
        return {
            name: self.prompt if name == "prompt" and self.prompt is not None else name
            for name in names
        }
