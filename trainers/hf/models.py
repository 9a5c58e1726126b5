"""Model store for transformers: build, load and save whole models.

The only place that calls `from_pretrained` for a model.
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import BitsAndBytesConfig, PreTrainedConfig

from attent_select.errors import InputError, MissingError
from trainers.hf import architectures
from trainers.hf.configs import check_decoder, check_positions, check_vocabulary, load_config
from trainers.hf.embeddings import grow_embeddings
from trainers.hf.new_weights import Loading, check_new_weights
from trainers.hf.paths import check_folder
from trainers.settings.model import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds: not for a wrong configuration

# What transformers raises for a configuration from which no model can be built.
_BUILD_ERRORS = (
    *(ValueError, TypeError, ImportError, RuntimeError, ArithmeticError),
    *(LookupError, AttributeError),
)
_SETTINGS = {each.name for each in fields(ModelSettings)}
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class HuggingFaceModels:
    """Model store for one auto class (`AutoModelForImageClassification`, …).

    `settings` is the section `model` of a configuration: see `ModelSettings`.
    """

    auto_class: str
    settings: dict[str, Any] = field(hash=False)
    # Tokens of the longest sample: a model with fewer positions fails in the middle of training.
    num_positions: int = 0
    # Size of the tokenizer's vocabulary: a token without an embedding fails the same way.
    num_tokens: int = 0
    # Types that the task can use; None: all of the auto class.
    model_types: tuple[str, ...] | None = None
    # Inputs that the task gives the model, on the device `meta`.
    example: dict[str, torch.Tensor] | None = field(default=None, compare=False)
    # The task continues a text, which an encoder-decoder model cannot do.
    is_decoder: bool = False
    # Dtype of the frozen weights of an adapter's base, instead of `torch_dtype`.
    base_dtype: str | None = None
    quantize: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.settings) - _SETTINGS:
            raise InputError(
                f"unknown model settings {sorted(unknown)}: expected some of {sorted(_SETTINGS)}"
            )
        if not isinstance(self.settings.get("config", {}), dict):
            raise InputError(
                f"model.config is {self.settings['config']!r}: expected fields of a configuration"
            )
        if not isinstance(self.settings.get("path", ""), str | os.PathLike):
            raise InputError(
                f"model.path is {self.settings['path']!r}: expected a folder or a name"
            )
        if "path" not in self.settings and "model_type" not in self.settings.get("config", {}):
            raise InputError("the model needs `path`, or `config` with a `model_type`")
        if self._dtype_name not in _DTYPES:
            raise InputError(
                f"model.torch_dtype is {self._dtype_name!r}: expected one of {', '.join(_DTYPES)}"
            )

    def check(self) -> None:
        """Check without weights that the model exists and takes the task's inputs.

        Raises:
            InputError: no model has this type or these fields, nothing is saved at `path`, or the
                model is for images of another size or number of channels.
        """
        config = load_config(self.settings)
        self._check_type(config)
        check_positions(config, num_positions=self.num_positions)
        if "path" not in self.settings:  # a saved model gets embeddings for new tokens
            check_vocabulary(config, num_tokens=self.num_tokens)
        if self.example is not None:
            self._check_example(self.example)
        elif self._attention:
            self.without_weights()  # raises if the implementation is not installed

    def check_saved(self) -> None:
        """Check that the model at `path` can be used as it is saved. Raises what `load` raises."""
        self.check()
        self._check_limits(load_config(self.settings))

    def build(self, seed: int) -> torch.nn.Module:
        """Return a new model on the CPU, bit-identical for the same seed.

        Raises:
            InputError: the configuration is wrong, or the saved model does not fit it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._from_path() if "path" in self.settings else self._from_config()
        self._check_limits(model.config)
        return model

    def load(self, folder: Path) -> torch.nn.Module:
        """Return the model saved in `folder`, in eval mode on the CPU.

        Raises:
            MissingError: there is no model in the folder.
            InputError: a weight is missing, unexpected or has another shape.
        """
        if not (folder / "config.json").is_file():
            raise MissingError(f"no model in {folder}: expected config.json and safetensors")
        model, loading = self._from_pretrained(str(folder))
        if loading.problems:
            raise InputError(f"the weights in {folder} do not fit the model: {loading.problems}")
        self._check_limits(model.config)
        return model

    def without_weights(self) -> torch.nn.Module:
        """Return the model's modules on the device `meta`, which takes no time and no memory."""
        trusted = bool(self.settings.get("trust_remote_code", False))
        try:
            with torch.device("meta"):
                model: torch.nn.Module = self._class.from_config(
                    load_config(self.settings), trust_remote_code=trusted, **self._attention
                )
        except _BUILD_ERRORS as error:
            raise InputError(f"the model cannot be built: {error}") from error
        return model

    def save(
        self,
        model: torch.nn.Module,
        folder: Path,
        *,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Write config.json and safetensors, with `weights` in place of the model's own."""
        saved: Any = model
        saved.save_pretrained(folder, state_dict=weights)

    @property
    def _class(self) -> Any:
        architectures.register_models()
        return getattr(transformers, self.auto_class)

    @property
    def _dtype_name(self) -> str:
        return str(self.base_dtype or self.settings.get("torch_dtype", "float32"))

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self._dtype_name)
        return dtype

    @property
    def _attention(self) -> dict[str, Any]:
        """The argument `attn_implementation` of transformers, if it is set."""
        name = self.settings.get("attn_implementation")
        return {} if name is None else {"attn_implementation": name}

    def _check_type(self, config: PreTrainedConfig) -> None:
        """Check that the auto class has the model type; remote code registers its own."""
        if self.settings.get("trust_remote_code"):
            return
        known = self._class._model_mapping  # noqa: SLF001
        is_usable = self.model_types is None or config.model_type in self.model_types
        if type(config) not in known or not is_usable:
            # Naming all of them imports all of them, which takes seconds.
            types = {each.model_type for each in known}
            usable = types if self.model_types is None else types & set(self.model_types)
            raise InputError(
                f"model type {config.model_type!r} does not fit the task: expected one of "
                f"{', '.join(sorted(usable))}"
            )
        if self.is_decoder:
            check_decoder(config)

    def _check_limits(self, config: PreTrainedConfig) -> None:
        check_positions(config, num_positions=self.num_positions)
        check_vocabulary(config, num_tokens=self.num_tokens)

    def _check_example(self, example: dict[str, torch.Tensor]) -> None:
        model = self.without_weights().eval()
        try:
            model(**example)
        except (ValueError, RuntimeError) as error:
            if "meta" in str(error):  # the model reads values, which the device `meta` lacks
                return
            shape = " × ".join(map(str, example["pixel_values"].shape[1:]))
            raise InputError(
                f"the model does not take images of {shape} (channels, height, width): {error}; "
                "set the same image_size and num_channels in the task and in model.config"
            ) from error

    def _from_config(self) -> "PreTrainedModel":
        config = load_config(self.settings)
        self._check_type(config)
        try:
            model: PreTrainedModel = self._class.from_config(
                config, dtype=self._dtype, **self._attention
            )
        except _BUILD_ERRORS as error:
            raise InputError(f"the model cannot be built: {error}") from error
        return model

    def _from_path(self) -> "PreTrainedModel":
        path = self.settings["path"]
        self._check_type(load_config(self.settings))
        overrides = dict(self.settings.get("config", {}))
        # Rows are added to the trained embedding below, instead of a new one in its place.
        vocab_size = overrides.pop("vocab_size", 0)
        model, loading = self._from_pretrained(path, **overrides)
        check_new_weights(
            model, loading, requested=self.settings.get("new_weights", False), path=path
        )
        grow_embeddings(model, num_tokens=self.num_tokens, vocab_size=vocab_size, path=path)
        return model

    def _from_pretrained(self, path: str, **config: Any) -> "tuple[PreTrainedModel, Loading]":
        """Return the model, and what is wrong with its weights."""
        config.pop("model_type", None)
        check_folder(path, what="model.path")
        try:
            model, info = self._class.from_pretrained(
                path,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=bool(self.settings.get("trust_remote_code", False)),
                dtype=self._dtype,
                quantization_config=_four_bit_config(self._dtype) if self.quantize else None,
                ignore_mismatched_sizes=True,  # reported below, with all of them at once
                **self._attention,
                **config,
            )
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise InputError(f"the model in {path} cannot be loaded: {error}") from error
        _keep_weight_layout(model)
        return model, Loading.of(info)


def _four_bit_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the quantisation of QLoRA: NF4 with quantised scales, computed with in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_weight_layout(model: torch.nn.Module) -> None:
    """Stop 4-bit layers from rearranging their weights at their first evaluation.

    They do so on some CPUs, for every model that shares the weights, and gradients then stop.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain bool
