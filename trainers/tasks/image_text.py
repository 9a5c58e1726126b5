"""Image and text: an image, a prompt about it, and the response that is learned.

The loss of a sample is the mean over the tokens of its response and the end after it, as in
`causal_lm`. Works with models of `AutoModelForImageTextToText` (LLaVA, Idefics3, PaliGemma, …)
whose processor puts the image's tokens into the text. One that is for videos too (Qwen2-VL) needs
torchvision.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import load_processor, model_store
from trainers.inputs import text as texts
from trainers.inputs.images import open_image
from trainers.scoring.evaluation import TokenSums, eval_mode
from trainers.scoring.functional_gradient import rms_over_units
from trainers.scoring.token_loss import (
    IGNORED,
    mean_over_tokens,
    token_gradients,
    token_logits,
    token_losses,
    token_scores,
)
from trainers.task import Batch, Item, Models

T = TypeVar("T")

# Of what the processor gives: tensors with a number per token, and all others.
_PER_TOKEN, _OTHER = "per_token.", "other."
# Made anew for prompt and response together.
_OURS = ("attention_mask", "labels")
# Processors set truncation and padding on the tokenizer that all threads share.
_processing = Lock()


@dataclass(frozen=True)
class ImageText:
    """Settings of the task.

    `processor` is a folder with a processor (tokenizer and image processor), or a name on the hub;
    `backend` is that of its images. `image`, `response` and those named in `template` are columns;
    the template has the processor's own image token in it. Without `template`, the column `prompt`
    is put into the processor's chat template. Samples longer than `max_length` tokens, those of the
    image included, are cut at the end.
    """

    processor: str
    image: str = "image"
    prompt: str = "prompt"
    response: str = "response"
    template: str | None = None
    max_length: int = 2048
    backend: str = "pil"

    draws = False  # nothing is random

    def __post_init__(self) -> None:
        if self.template is not None:
            texts.template_fields(self.template)
        if self.max_length < 2:
            raise InputError(f"max_length is {self.max_length}: expected at least 2 tokens")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.image, *self._template_columns.values(), self.response]))

    def check(self) -> None:
        """Raises `InputError` for a processor that is not there or lacks what is needed."""
        processor = self._loaded
        texts.padding_of(processor.tokenizer, path=self.processor)
        if self.template is None and not getattr(processor, "chat_template", None):
            raise InputError(
                f"the processor in {self.processor} has no chat template: add one to it "
                "(chat_template.jinja), or set task.template"
            )
        self._try(processor)

    def models(self, settings: dict[str, Any]) -> Models:
        """Models of `AutoModelForImageTextToText`."""
        return model_store(
            "AutoModelForImageTextToText",
            settings,
            num_positions=self.max_length,
            num_tokens=len(self._loaded.tokenizer),
            is_decoder=True,
        )

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """`input_ids` and `labels` (-100: does not count) as lists, and what else the processor
        gives; a token costs one unit.
        """
        processor = self._loaded
        response = texts.text_in(sample, self.response)
        image = open_image(sample[self.image], num_channels=3)
        before = self._processed(self._before(sample, processor), image)
        ids = before.pop("input_ids")[0].tolist()
        counted = texts.encode(processor.tokenizer, response)
        if not counted:
            raise SampleError("there is no token to count", status="empty")
        end = processor.tokenizer.eos_token_id
        counted += [] if end is None else [end]
        whole = (ids + counted)[: self.max_length]
        if len(whole) <= len(ids):
            raise SampleError(
                f"image and prompt are {len(ids)} of at most {self.max_length} tokens: none is "
                "left for the response",
                status="empty",
            )
        return {
            "input_ids": whole,
            "labels": [IGNORED] * len(ids) + whole[len(ids) :],
            "truncated": len(ids) + len(counted) > self.max_length,
            "num_units": len(whole),
            **_others(processor, before, num_before=len(ids), num_tokens=len(whole)),
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """As for `causal_lm`; what else the processor gave is joined along its first dimension."""
        tokenizer = self._loaded.tokenizer
        batch = texts.pad(items, padding=texts.padding_of(tokenizer, path=self.processor))
        length = batch["input_ids"].shape[1]
        for name in (name for name in items[0] if name.startswith((_PER_TOKEN, _OTHER))):
            values = [item[name] for item in items]
            if name.startswith(_PER_TOKEN):
                values = [
                    torch.nn.functional.pad(value, (0, length - value.shape[1])) for value in values
                ]
            try:
                batch[name] = torch.cat(values)
            except RuntimeError as error:
                raise InputError(
                    f"the processor in {self.processor} gives {name.partition('.')[2]} of "
                    f"different shapes: expected one with a fixed size of images ({error})"
                ) from error
        return batch

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean nats per counted token float32[batch], and their number int64[batch].

        Raises:
            InputError: the model does not take what the processor makes of an image.
        """
        return mean_over_tokens(*self._measured(token_losses, model, batch))

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """With ‖∂ℓ/∂f‖ float32[batch], f being the logits of each counted token."""
        nats, norms, counted = self._measured(token_gradients, model, batch)
        return *mean_over_tokens(nats, counted), rms_over_units(norms, counted)

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """float[batch]: the logit of a counted token itself, the mean over them."""
        return mean_over_tokens(*self._measured(token_logits, model, batch))[0]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """`eval_loss` (nats per counted token), `perplexity` and `accuracy` (share of the counted
        tokens that are the model's first choice).
        """
        sums = TokenSums()
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                sums.add(*self._measured(token_scores, model, batch))
        return sums.metrics()

    def _measured(self, measure: Callable[..., T], model: torch.nn.Module, batch: Batch) -> T:
        """Processor and model are saved apart: only the model can say that it is for another."""
        try:
            return measure(model, batch, more_inputs=_more_inputs(batch))
        except ValueError as error:
            raise InputError(
                f"the model does not take what the processor in {self.processor} makes of an image "
                f"and its text: {error}. Name the processor that was saved with the model"
            ) from error

    def _try(self, processor: Any) -> None:
        """With words and a black image: processors count images and their places in the text."""
        from PIL import Image

        words = dict.fromkeys(self._template_columns.values(), "words")
        try:
            self._processed(self._before(words, processor), Image.new("RGB", (64, 64)))
        except SampleError as error:
            raise InputError(str(error)) from error

    def _before(self, sample: Sample, processor: Any) -> str:
        values = {
            name: texts.text_in(sample, column) for name, column in self._template_columns.items()
        }
        if self.template is not None:
            return self.template.format(**values)
        content = [{"type": "image"}, {"type": "text", "text": values["prompt"]}]
        return str(
            processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )

    def _processed(self, text: str, image: Any) -> dict[str, torch.Tensor]:
        try:
            with _processing:
                return dict(self._loaded(text=[text], images=[image], return_tensors="pt"))
        except (ValueError, TypeError, IndexError) as error:
            raise SampleError(
                f"the processor in {self.processor} refuses the sample: {error}",
                status="unreadable",
            ) from error

    @property
    def _loaded(self) -> Any:
        return load_processor(self.processor, backend=self.backend)

    @property
    def _template_columns(self) -> dict[str, str]:
        """Name in the template → column."""
        names = ("prompt",) if self.template is None else texts.template_fields(self.template)
        return {name: self.prompt if name == "prompt" else name for name in names}


def _others(
    processor: Any, given: dict[str, torch.Tensor], *, num_before: int, num_tokens: int
) -> Item:
    """What the processor gives beside the tokens; per token with those of the response added."""
    found: Item = {}
    for name in (name for name in given if name not in _OURS):
        if given[name].shape[:2] != (1, num_before):
            found[_OTHER + name] = given[name]
            continue
        # 0 is text, everywhere but where prompts are seen as a whole (PaliGemma): what is to be
        # predicted would be seen with them.
        kind = int(name == "token_type_ids" and _tells_prompts(processor))
        more = torch.full((1, num_tokens - num_before), kind, dtype=given[name].dtype)
        found[_PER_TOKEN + name] = torch.cat([given[name], more], dim=1)
    return found


def _tells_prompts(processor: Any) -> bool:
    return "suffix" in inspect.signature(type(processor).__call__).parameters


def _more_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name.partition(".")[2]: value
        for name, value in batch.items()
        if name.startswith((_PER_TOKEN, _OTHER))
    }
