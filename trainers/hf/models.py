"""Models of Hugging Face transformers: build, load, save.

The one place that calls `from_pretrained`.
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from attent_select.errors import InputError, MissingError
from trainers.hf.dit import DitConfig, DitModel
from trainers.hf.multi_mae import MultiMaeConfig, MultiMaeModel
from trainers.task import Models

# What transformers lacks; from here on it is found there like any other architecture.
for _config, _model in ((DitConfig, DitModel), (MultiMaeConfig, MultiMaeModel)):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForPreTraining.register(_config, _model)

# What transformers answers to a configuration that makes no model.
_UNFIT = (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError)
_SETTINGS = {"path", "config", "new_weights", "trust_remote_code", "lora"}


def model_store(
    auto_class: str,
    settings: dict[str, Any],
    *,
    num_positions: int = 0,
    num_tokens: int = 0,
    model_types: tuple[str, ...] | None = None,
    example: dict[str, torch.Tensor] | None = None,
    is_decoder: bool = False,
) -> Models:
    """The store for the `model:` section: of whole models, or with `lora` of adapters.

    The other arguments are those of `HuggingFaceModels`.
    """
    from trainers.hf.adapters import AdapterModels

    whole = HuggingFaceModels(
        auto_class,
        settings,
        num_positions=num_positions,
        num_tokens=num_tokens,
        model_types=model_types,
        example=example,
        is_decoder=is_decoder,
    )
    return whole if settings.get("lora") is None else AdapterModels.of(whole)


def save_plain(models: Models, saved: Path, folder: Path) -> None:
    """Write a saved model in the plain Hugging Face layout, adapters merged into it.

    Raises:
        InputError: it is no model of transformers.
    """
    model: Any = models.merged(saved) if hasattr(models, "merged") else models.load(saved)
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"{type(model).__name__} is no model of transformers: expected one")
    model.save_pretrained(folder)


@dataclass(frozen=True)
class HuggingFaceModels:
    """A model store for one auto class (`AutoModelForImageClassification`, …).

    Settings, the `model:` section of the configuration:
        config: the fields of a transformers configuration, with `model_type`: a new model.
        path: a saved model (a local folder, or a name on the hub) to start from; fields of `config`
            then override its configuration.
        new_weights: with `path`, allow weights that the saved model lacks (a new head); default
            false.
        trust_remote_code: run code that comes with `path`; default false.
        lora: train an adapter instead of the model, see `trainers/hf/adapters.py`.
    """

    auto_class: str
    settings: dict[str, Any] = field(hash=False)
    # Tokens of the longest sample: a model with fewer positions fails in the middle of training.
    num_positions: int = 0
    # Size of the tokenizer's vocabulary: a token without an embedding fails the same way.
    num_tokens: int = 0
    # Those that the task can use; None: all of the auto class.
    model_types: tuple[str, ...] | None = None
    # What the task gives a model, on the device `meta`.
    example: dict[str, torch.Tensor] | None = field(default=None, compare=False)
    # The task continues a text: a model that reads it in one half and writes in another cannot.
    is_decoder: bool = False
    # Of the weights: anything but float32 is for models that are not trained.
    dtype: str = "float32"
    quantize: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.settings) - _SETTINGS:
            raise InputError(
                f"unknown model settings {sorted(unknown)}: expected some of {sorted(_SETTINGS)}"
            )
        if "path" not in self.settings and "model_type" not in self.settings.get("config", {}):
            raise InputError("the model needs `path`, or `config` with a `model_type`")

    def check(self) -> None:
        """Without weights: whether there is such a model, and takes what the task gives it.

        Raises:
            InputError: no model has this type or these fields, or nothing is saved at `path`; or
                it is for images of another size or number of channels.
        """
        config = self._config()
        self._check_fits(config)
        self._check_limits(config)
        if self.example is not None:
            self._check_takes(self.example)

    def build(self, seed: int) -> torch.nn.Module:
        """A new model in float32 on the CPU, the same bits for the same seed.

        Raises:
            InputError: the configuration is wrong, or the saved model does not fit it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._from_path() if "path" in self.settings else self._from_config()
        self._check_limits(model.config)
        return model

    def load(self, folder: Path) -> torch.nn.Module:
        """The model saved in `folder`, in eval mode on the CPU.

        Raises:
            MissingError: there is no model in the folder.
            InputError: a weight is missing, left over or of another shape.
        """
        if not (folder / "config.json").is_file():
            raise MissingError(f"no model in {folder}: expected config.json and safetensors")
        model, problems = self._pretrained(str(folder))
        if problems:
            raise InputError(f"the weights in {folder} do not fit the model: {problems}")
        self._check_limits(model.config)
        return model

    def without_weights(self) -> torch.nn.Module:
        """The modules of the model on the device `meta`: no time, no memory."""
        trusted = bool(self.settings.get("trust_remote_code", False))
        try:
            with torch.device("meta"):
                model: torch.nn.Module = self._class.from_config(
                    self._config(), trust_remote_code=trusted
                )
        except _UNFIT as error:
            raise InputError(f"the model cannot be built: {error}") from error
        return model

    def save(
        self,
        model: torch.nn.Module,
        folder: Path,
        *,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Write config.json and safetensors, of the model's own weights or of those given."""
        saved: Any = model
        saved.save_pretrained(folder, state_dict=weights)

    @property
    def _class(self) -> Any:
        return getattr(transformers, self.auto_class)

    def _check_fits(self, config: PreTrainedConfig) -> None:
        """Of the auto classes only the mapping says what they take; remote code maps itself."""
        if self.settings.get("trust_remote_code"):
            return
        known = {key.model_type for key in self._class._model_mapping}  # noqa: SLF001
        wanted = known if self.model_types is None else known & set(self.model_types)
        if config.model_type not in wanted:
            raise InputError(
                f"model type {config.model_type!r} does not fit the task: expected one of "
                f"{', '.join(sorted(wanted))}"
            )
        parts = (config, config.get_text_config())
        if self.is_decoder and any(getattr(part, "is_encoder_decoder", False) for part in parts):
            raise InputError(
                f"model type {config.model_type!r} does not fit the task: it has an encoder for "
                "the text; expected one that continues a text (llava, idefics3, paligemma, …)"
            )

    def _from_config(self) -> torch.nn.Module:
        config = self._new_config()
        self._check_fits(config)
        try:
            model: torch.nn.Module = self._class.from_config(config, dtype=torch.float32)
        except _UNFIT as error:
            raise InputError(f"the model cannot be built: {error}") from error
        return model

    def _config(self) -> PreTrainedConfig:
        return self._config_at_path() if "path" in self.settings else self._new_config()

    def _new_config(self) -> PreTrainedConfig:
        config = dict(self.settings["config"])
        try:
            built = AutoConfig.for_model(config.pop("model_type"), **config)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise InputError(f"model.config: the model cannot be built: {error}") from error
        _check_known(config, built=built)
        # Where a type has several classes (DeiT), theirs looks for one by name: not in None.
        built.architectures = built.architectures or []
        return built

    def _config_at_path(self) -> PreTrainedConfig:
        path = self.settings["path"]
        config = dict(self.settings.get("config", {}))
        config.pop("model_type", None)
        trusted = bool(self.settings.get("trust_remote_code", False))
        try:
            found: PreTrainedConfig = AutoConfig.from_pretrained(
                path, trust_remote_code=trusted, **config
            )
        except (OSError, ValueError, TypeError, StrictDataclassError) as error:
            raise InputError(f"model.path: no model can be loaded from {path}: {error}") from error
        return found

    def _check_takes(self, example: dict[str, torch.Tensor]) -> None:
        model = self.without_weights().eval()
        try:
            model(**example)
        except (ValueError, RuntimeError) as error:
            if "meta" in str(error):  # a model that looks at numbers, of which there are none here
                return
            shape = " × ".join(map(str, example["pixel_values"].shape[1:]))
            raise InputError(
                f"the model does not take images of {shape} (channels, height, width): {error}; "
                "set image_size and num_channels of the task and of the model's configuration alike"
            ) from error

    def _check_limits(self, config: PreTrainedConfig) -> None:
        text = config.get_text_config()
        limit = getattr(text, "max_position_embeddings", None)
        if limit is not None and 0 < limit < self.num_positions:
            raise InputError(
                f"the task cuts text at {self.num_positions} tokens, the model has {limit} "
                f"positions: set task.max_length to at most {limit}"
            )
        known = getattr(text, "vocab_size", None)
        if known is not None and known < self.num_tokens:
            raise InputError(
                f"the tokenizer has {self.num_tokens} tokens, the model only {known}: name the "
                "tokenizer that belongs to the model, or set model.config.vocab_size"
            )

    def _from_path(self) -> torch.nn.Module:
        path = self.settings["path"]
        self._check_fits(self._config_at_path())
        model, problems = self._pretrained(path, **self.settings.get("config", {}))
        forgiven = {"missing", "mismatched"} if self.settings.get("new_weights") else set()
        if problems.keys() - forgiven:
            raise InputError(
                f"the weights in {path} do not fit the model: {problems}. `new_weights: true` "
                "starts missing and mismatched ones at random"
            )
        return model

    def _pretrained(self, path: str, **config: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The model and what was wrong with its weights (empty: nothing)."""
        config.pop("model_type", None)
        try:
            model, info = self._class.from_pretrained(
                path,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=bool(self.settings.get("trust_remote_code", False)),
                dtype=getattr(torch, self.dtype),
                quantization_config=_in_four_bits(self.dtype) if self.quantize else None,
                ignore_mismatched_sizes=True,  # reported below, with all of them at once
                **config,
            )
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"the model in {path} cannot be loaded: {error}") from error
        _keep_layout(model)
        found = {
            "missing": info["missing_keys"],
            "unexpected": info["unexpected_keys"],
            "mismatched": info["mismatched_keys"],
            "errors": info["error_msgs"],
        }
        return model, {name: sorted(map(str, keys)) for name, keys in found.items() if keys}


def _in_four_bits(dtype: str) -> BitsAndBytesConfig:
    """As QLoRA has it: NF4, its scales quantised too; computed with in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _keep_layout(model: torch.nn.Module) -> None:
    """On some CPUs a 4-bit layer rearranges its weights when it is first evaluated: for every model
    that shares them, and so that no gradient comes through any more.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _check_known(config: dict[str, Any], *, built: PreTrainedConfig) -> None:
    """A configuration keeps a field that it does not know as an attribute that nobody reads."""
    default = type(built)()
    for name in config:
        if hasattr(built, name) and not hasattr(default, name):
            known = [*default.to_dict(), *default.attribute_map, "num_labels"]
            close = get_close_matches(name, known, n=1)
            raise InputError(
                f"model.config: {built.model_type} has no field {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
