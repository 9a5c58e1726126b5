"""Preference pairs: two answers to one prompt, of which the first was preferred. Only scored.

The loss of an answer is the mean over its tokens. With the losses of both, in nats,

    margin = loss_rejected − loss_chosen        loss = ln(1 + exp(−margin))

The margin is positive where the model agrees with the preference; the loss of a pair is that of
telling the chosen answer from the rejected one.

Source: the loss is that of Meng, Xia and Chen, "SimPO: Simple Preference Optimization with a
Reference-Free Reward" (NeurIPS 2024), with β = 1 and γ = 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from attent_select.schema import LOSS_CHOSEN, LOSS_REJECTED, MARGIN
from catalogs.shard_format import Sample
from trainers.hf import load_tokenizer, model_store, packs_exactly
from trainers.inputs import text as texts
from trainers.inputs import tokens
from trainers.inputs.chat_messages import Chat, chat_in, messages_in
from trainers.inputs.chat_turns import check_template, common_prefix, rendered_chat
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.token_loss import mean_over_tokens, token_losses
from trainers.task import Batch, Item, Models


@dataclass(frozen=True)
class PreferencePairs:
    """Preference pairs: two answers to one prompt, of which the first was preferred. Only scored.

    Without `prompt`, both answers begin with the same characters or messages: these are the
    prompt. With `chats`, the assistant's messages after the prompt count. A pair is `empty` if an
    answer has no token, before or after truncation, or both are the same.

    Attributes:
        tokenizer: a folder with a fast tokenizer, or a name on the hub; default: that of the model.
        prompt: a column: text, formatted by `template`, or messages.
        chosen: the column of the preferred answer.
        rejected: the column of the other answer.
        template: text before an answer; `{prompt}` is the column `prompt`.
        chats: answers are lists of chat messages instead of text.
        chat_template: a Jinja template that replaces the tokenizer's.
        tools: a column of tools (JSON schemas) that the chat template describes.
        chat_template_kwargs: other variables of the chat template: a column, or the same for all.
        max_length: most tokens of an answer with its prompt.
        truncate: truncate longer answers at their end, and count them; `false`: the pair is
            `too_long`.
        packing: compute answers side by side instead of padded.
    """

    tokenizer: str | None = None
    prompt: str | None = None
    chosen: str = "chosen"
    rejected: str = "rejected"
    template: str = "{prompt}"
    chats: bool = False
    chat_template: str | None = None
    tools: str | None = None
    chat_template_kwargs: str | Mapping[str, Any] | None = field(default=None, hash=False)
    max_length: int = 512
    truncate: bool = True
    packing: bool = False

    draws = False  # nothing is random
    score_columns = (LOSS_CHOSEN, LOSS_REJECTED, MARGIN)

    def __post_init__(self) -> None:
        if texts.template_fields(self.template) != ("prompt",):
            raise InputError(
                f"template is {self.template!r}: expected {{prompt}} in it, and no other name"
            )
        if self.max_length < 2:
            raise InputError(f"max_length is {self.max_length}: expected at least 2 tokens")
        for name in ("chat_template", "tools", "chat_template_kwargs"):
            if getattr(self, name) is not None and not self.chats:
                raise InputError(f"{name} needs a chat: set `chats: true`")
        if self.template != "{prompt}" and (self.chats or self.prompt is None):
            raise InputError("template needs a column of text: set `prompt`, without `chats`")

    @property
    def columns(self) -> tuple[str, ...]:
        kwargs = self.chat_template_kwargs
        variables = kwargs if isinstance(kwargs, str) else None
        names = (self.prompt, self.chosen, self.rejected, self.tools, variables)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def check(self) -> None:
        """Check the tokenizer.

        Raises:
            InputError: it is missing, or lacks padding or a chat template.
        """
        texts.padding_of(self._tokenizer, path=self._path)
        if self.chats:
            check_template(self._tokenizer, template=self.chat_template)

    def check_training(self) -> None:
        """Raise `InputError`: pairs are scored here, and trained on by another program."""
        raise InputError(
            "preference_pairs does not train: score and select the pairs here, then train on the "
            "selected ones with trl (DPOTrainer). See docs/preference_pairs.md"
        )

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
        """Return the items of `chosen` and `rejected`, as `causal_lm` has them. A pair costs the
        tokens of both, padded to the longer one.
        """
        (item,) = self.prepare_all([sample])
        if isinstance(item, SampleError):
            raise item
        return item

    def prepare_all(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return what `prepare` returns or raises for each sample, with all texts tokenised at
        once.
        """
        answers = tokens.items_of(
            self._tokenizer,
            [text for sample in samples for text in self._texts_or_error(sample)],
            max_length=self.max_length,
            truncate=self.truncate,
        )
        return [self._pair(*pair) for pair in zip(answers[::2], answers[1::2], strict=True)]

    def _pair(self, chosen: Item | SampleError, rejected: Item | SampleError) -> Item | SampleError:
        for name, answer in ((self.chosen, chosen), (self.rejected, rejected)):
            if isinstance(answer, SampleError):
                return SampleError(f"{name}: {answer}", status=answer.status)
        assert not isinstance(chosen, SampleError)
        assert not isinstance(rejected, SampleError)
        if chosen["input_ids"] == rejected["input_ids"]:
            return SampleError(f"{self.chosen} and {self.rejected} are the same", status="empty")
        lengths = (chosen["num_units"], rejected["num_units"])
        return {
            "chosen": chosen,
            "rejected": rejected,
            "num_units": sum(lengths) if self.packing else 2 * max(lengths),
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `input_ids`, `attention_mask`, `labels` int64[2 · batch, tokens], first all chosen
        answers and then all rejected ones, padded on the right, and `truncated` bool[batch].
        """
        answers = [item[name] for name in ("chosen", "rejected") for item in items]
        batch = texts.pad(answers, padding=texts.padding_of(self._tokenizer, path=self._path))
        return batch | {"truncated": batch["truncated"].view(2, -1).any(dim=0)}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each pair in nats float32[batch], and one unit int64[batch]."""
        loss, num_units, *_ = self.loss_and_scores(model, batch)
        return loss, num_units

    def loss_and_scores(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return also `score_columns`, float32[batch]: nats per token of both answers, and the
        margin.
        """
        losses, _ = mean_over_tokens(*token_losses(model, batch, packing=self.packing))
        chosen, rejected = losses.chunk(2)
        margin = rejected - chosen
        num_units = torch.ones_like(margin, dtype=torch.int64)
        return functional.softplus(-margin), num_units, chosen, rejected, margin

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return means over pairs: `eval_loss`, `accuracy` (share with a positive margin), and
        `margin`.

        Raises:
            InputError: `batches` is empty.
        """
        with eval_mode(model) as to_device:
            scores = [self.loss_and_scores(model, to_device(batch)) for batch in batches]
        if not scores:
            raise InputError("no pairs to evaluate: expected at least one held-out batch")
        loss, _, _, _, margin = (torch.cat(parts).double() for parts in zip(*scores, strict=True))
        return {
            "eval_loss": loss.mean().item(),
            "accuracy": (margin > 0).double().mean().item(),
            "margin": margin.mean().item(),
        }

    def _texts_or_error(self, sample: Sample) -> Sequence[tokens.Text | SampleError]:
        """Return the text of the chosen and of the rejected answer, each with its prompt."""
        try:
            return self._chats(sample) if self.chats else self._texts(sample)
        except SampleError as error:
            return error, error

    def _texts(self, sample: Sample) -> list[tokens.Text]:
        answers = [texts.text_in(sample, name) for name in (self.chosen, self.rejected)]
        if self.prompt is None:
            start = common_prefix(*answers)
            # A space belongs to the word after it.
            start -= answers[0][:start].endswith(" ")
        else:
            prompt = self.template.format(prompt=texts.text_in(sample, self.prompt))
            answers, start = [prompt + answer for answer in answers], len(prompt)
        return [
            tokens.Text(tokens.check_text(answer), ((start, len(answer)),)) for answer in answers
        ]

    def _chats(self, sample: Sample) -> list[tokens.Text]:
        chats = [
            chat_in(sample, name, tools=self.tools, variables=self.chat_template_kwargs)
            for name in (self.chosen, self.rejected)
        ]
        if self.prompt is None:
            first = common_prefix(*(chat.messages for chat in chats))
        else:
            prompt = messages_in(sample[self.prompt], column=self.prompt)
            chats = [replace(chat, messages=[*prompt, *chat.messages]) for chat in chats]
            first = len(prompt)
        return [self._render(chat, first=first) for chat in chats]

    def _render(self, chat: Chat, *, first: int) -> tokens.Text:
        text, spans = rendered_chat(self._tokenizer, chat, template=self.chat_template, first=first)
        return tokens.Text(tokens.check_text(text), spans, has_ends=True)

    @property
    def _path(self) -> str:
        return texts.tokenizer_path(self.tokenizer)

    @property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._path)
