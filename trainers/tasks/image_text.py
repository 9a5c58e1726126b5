"""Image and text: an image, a prompt about it, and the response that is learned.

The loss of a sample is the mean over the tokens of its response and the end token, as in
`causal_lm`. Works with models of `AutoModelForImageTextToText` (LLaVA, Idefics3, PaliGemma, …)
whose processor inserts the image's tokens into the text. Models that also process videos (Qwen2-VL)
need torchvision.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import torch

from attent_select.errors import AttentError, InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import load_processor, model_store
from trainers.inputs import text as texts
from trainers.inputs import tokens
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
from trainers.task import Batch, Item, Models, prepare_each

T = TypeVar("T")

# Prefixes of the processor's outputs in an item: tensors with a number per token, and all others.
_PER_TOKEN, _OTHER = "per_token.", "other."
# Outputs of the processor that the task computes itself, for prompt and response together.
_RECOMPUTED = ("attention_mask", "labels")
# Processors set truncation and padding on the tokenizer that all threads share.
_processor_lock = Lock()


@dataclass(frozen=True)
class ImageText:
    """Image and text: an image, a prompt about it, and the response that is learned.

    Attributes:
        processor: a folder with a processor (tokenizer and image processor), or a name on the hub.
        image: a column of images.
        prompt: the column of the prompt, formatted by the processor's chat template.
        response: the column that is learned.
        template: text before the response, instead of the chat template: it contains the
            processor's image token, and names in braces are columns.
        max_length: most tokens of a sample, those of the image included; longer ones are truncated
            at the end.
        backend: backend of the image processor, `pil` or `torchvision`.
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
        """Check the processor with a text and a black image.

        Raises:
            InputError: it is missing, lacks padding or a chat template, or refuses the input.
        """
        processor = self._processor
        texts.padding_of(processor.tokenizer, path=self.processor)
        if self.template is None and not getattr(processor, "chat_template", None):
            raise InputError(
                f"the processor in {self.processor} has no chat template: add one to it "
                "(chat_template.jinja), or set task.template"
            )
        self._check_processing(processor)

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of `AutoModelForImageTextToText`."""
        return model_store(
            "AutoModelForImageTextToText",
            settings,
            num_positions=self.max_length,
            num_tokens=len(self._processor.tokenizer),
            is_decoder=True,
        )

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `input_ids` and `labels` (-100: not counted) as lists, and the processor's other
        outputs; a token costs one unit.
        """
        processor = self._processor
        prompt, response = self._prompt(sample, processor), texts.text_in(sample, self.response)
        tokens.check_text(prompt + response)
        image = open_image(sample[self.image], num_channels=3)
        if _separates_prompts(processor):  # such models were trained on two tokenisations
            answer = tokens.encode(processor.tokenizer, response)
            ids, outputs = self._process(prompt, image)
            ids += answer
        else:
            answer = self._counted_tokens(prompt, response)
            ids, outputs = self._process(prompt + response, image)
        end = processor.tokenizer.eos_token_id
        answer += [] if end is None or not answer or answer[-1] == end else [end]
        ids += [] if end is None or ids[-1] == end else [end]
        if ids[len(ids) - len(answer) :] != answer:
            raise SampleError(
                f"the processor in {self.processor} changes the end of the text",
                status="unreadable",
            )
        item = tokens.item_of(
            tokens.Tokens(ids, [(len(ids) - len(answer), len(ids))]),
            max_length=self.max_length,
            truncate=True,
        )
        return {**item, **_other_outputs(processor, outputs, num_tokens=len(item["input_ids"]))}

    def _counted_tokens(self, prompt: str, response: str) -> list[int]:
        """Return the tokens of the response, as they are after the prompt.

        The processor only inserts the image's tokens before them.
        """
        span = (len(prompt), len(prompt) + len(response))
        text = tokens.Text(prompt + response, (span,))
        (encoded,) = tokens.encode_all(self._processor.tokenizer, [text])
        return [label for label in encoded.labels if label != IGNORED]

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate as `causal_lm` does; concatenate the processor's other outputs."""
        tokenizer = self._processor.tokenizer
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
                    f"the processor in {self.processor} returns {name.partition('.')[2]} of "
                    f"different shapes: expected one with a fixed image size ({error})"
                ) from error
        return batch

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.columns

    def prepare_inputs(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return what `prepare` returns or raises: the response is part of the text."""
        return list(prepare_each(self, samples, [None] * len(samples)))

    def collate_inputs(self, items: Sequence[Item]) -> tuple[Batch, torch.Tensor]:
        """Return the processor's outputs, and the number of counted tokens int64[batch]."""
        batch = self.collate(items)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return inputs | _more_inputs(batch), self.counted_units(batch)

    def counted_units(self, batch: Batch) -> torch.Tensor:
        """Return the number of counted tokens int64[batch]."""
        return (batch["labels"][:, 1:] != IGNORED).sum(dim=1)

    def share_of(self, item: Item, *, share: float) -> Item:
        """Return the item up to the last of the first `share` of its counted tokens."""
        part = tokens.first_share(item, share=share)
        per_token = (name for name in part if name.startswith(_PER_TOKEN))
        return part | {name: part[name][:, : part["num_units"]] for name in per_token}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean nats per counted token float32[batch], and their number int64[batch].

        Raises:
            InputError: the model does not take the processor's outputs.
        """
        return mean_over_tokens(*self._measure(token_losses, model, batch))

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the logits of each counted token."""
        nats, norms, counted = self._measure(token_gradients, model, batch)
        return *mean_over_tokens(nats, counted), rms_over_units(norms, counted)

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean logit of the counted tokens themselves, float[batch]."""
        return mean_over_tokens(*self._measure(token_logits, model, batch))[0]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss` (nats per counted token), `perplexity` and `accuracy` (share of the
        counted tokens that are the model's first choice).
        """
        sums = TokenSums()
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                sums.add(*self._measure(token_scores, model, batch))
        return sums.metrics()

    def _measure(self, measure: Callable[..., T], model: torch.nn.Module, batch: Batch) -> T:
        """Call `measure`; report a processor that belongs to another model."""
        try:
            return measure(model, batch, more_inputs=_more_inputs(batch))
        except AttentError:
            raise
        except ValueError as error:
            raise InputError(
                f"the model does not take the outputs of the processor in {self.processor}: "
                f"{error}. Set task.processor to the one that was saved with the model"
            ) from error

    def _check_processing(self, processor: Any) -> None:
        """Process words and a black image: processors count images and their tokens in the text."""
        from PIL import Image

        sample = dict.fromkeys(self._template_columns.values(), "words")
        try:
            self._process(self._prompt(sample, processor), Image.new("RGB", (64, 64)))
        except SampleError as error:
            raise InputError(str(error)) from error

    def _prompt(self, sample: Sample, processor: Any) -> str:
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

    def _process(self, text: str, image: Any) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Return the tokens of text and image, and the processor's other outputs."""
        process = self._processor  # outside: a missing one is not a fault of the sample
        try:
            with _processor_lock:
                outputs = process(text=[text], images=[image], return_tensors="pt")
            ids: list[int] = outputs["input_ids"][0].tolist()
            return ids, {name: outputs[name] for name in outputs if name != "input_ids"}
        except (ValueError, TypeError, IndexError) as error:
            raise SampleError(
                f"the processor in {self.processor} refuses the sample: {error}",
                status="unreadable",
            ) from error

    @property
    def _processor(self) -> Any:
        return load_processor(self.processor, backend=self.backend)

    @property
    def _template_columns(self) -> dict[str, str]:
        """Column of each name in the template."""
        names = ("prompt",) if self.template is None else texts.template_fields(self.template)
        return {name: self.prompt if name == "prompt" else name for name in names}


def _other_outputs(processor: Any, outputs: dict[str, torch.Tensor], *, num_tokens: int) -> Item:
    """Return the processor's outputs except tokens, those per token for as many as the item has."""
    extended: Item = {}
    num_processed = outputs["attention_mask"].shape[1]
    for name in (name for name in outputs if name not in _RECOMPUTED):
        if outputs[name].shape[:2] != (1, num_processed):
            extended[_OTHER + name] = outputs[name]
            continue
        # Text has type 0, except where prompt tokens attend to each other (PaliGemma): there the
        # response has type 1, or prompts would attend to the tokens to predict.
        token_type = int(name == "token_type_ids" and _separates_prompts(processor))
        missing = (0, num_tokens - num_processed)
        extended[_PER_TOKEN + name] = torch.nn.functional.pad(
            outputs[name], missing, value=token_type
        )
    return extended


def _separates_prompts(processor: Any) -> bool:
    return "suffix" in inspect.signature(type(processor).__call__).parameters


def _more_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name.partition(".")[2]: value
        for name, value in batch.items()
        if name.startswith((_PER_TOKEN, _OTHER))
    }
