"""LoRA, DoRA and QLoRA adapters through PEFT: built, loaded and saved without the base model.

The store for `model.lora`. A process loads the base model once. Every adapter gets its own modules
around the base's tensors, so that switching adapters takes milliseconds, and threads with
different adapters do not interfere.
"""

import copy
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils.import_utils import is_bitsandbytes_available

from attent_select.errors import InputError, MissingError
from trainers.checkpoint import tensors_digest, weights_digest
from trainers.hf.models import HuggingFaceModels

# PEFT uses a deprecated name in transformers for every adapter.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

ADAPTER_FILE = "adapter_model.safetensors"
_ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSettings:
    """Settings of an adapter (LoRA) that is trained on a frozen model.

    Attributes:
        rank: rank of the adapter's matrices.
        alpha: scale of the adapter, divided by the rank.
        dropout: dropout of the adapter's input.
        targets: names of linear layers (`q_proj`), or `all-linear`: all except the head.
        dora: also train the magnitude of every weight column.
        also_train: modules that are trained and saved whole, such as a new head.
        base_dtype: dtype of the frozen weights, `float32` or `bfloat16`; with `quantize` that of
            the computation.
        quantize: `4bit` (QLoRA) stores the frozen weights in 4 bits; needs bitsandbytes.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = _ALL_LINEAR
    dora: bool = False
    also_train: tuple[str, ...] = ()
    base_dtype: str = "float32"
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.targets != _ALL_LINEAR:
            names = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
            object.__setattr__(self, "targets", names)
        object.__setattr__(self, "also_train", tuple(self.also_train))
        if self.rank < 1:
            raise InputError(f"model.lora.rank is {self.rank}: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(
                f"model.lora.dropout is {self.dropout}: expected at least 0 and less than 1"
            )
        if self.base_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"model.lora.base_dtype is {self.base_dtype!r}: expected float32 or bfloat16"
            )
        # Not 8 bits: there the whole batch decides which features are computed in 16 bits.
        if self.quantize not in (None, "4bit"):
            raise InputError(f"model.lora.quantize is {self.quantize!r}: expected 4bit")

    @classmethod
    def of(cls, values: Any) -> "LoraSettings":
        """Read the settings from the configuration's plain values."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise InputError(
                f"model.lora is {values!r}: expected a mapping with some of {', '.join(known)}"
            )
        if unknown := sorted(values.keys() - set(known)):
            raise InputError(
                f"model.lora has unknown settings {', '.join(unknown)}: expected some of "
                f"{', '.join(known)}"
            )
        return cls(**values)

    def peft_config(self) -> LoraConfig:
        """Return the same settings under PEFT's names."""
        scale: Any = self.alpha  # annotated as int; PEFT only divides it by the rank
        return LoraConfig(
            r=self.rank,
            lora_alpha=scale,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            use_dora=self.dora,
            modules_to_save=list(self.also_train) or None,
        )


@dataclass(frozen=True)
class LoraModels:
    """Model store whose checkpoints hold only the adapter."""

    base: HuggingFaceModels
    lora: LoraSettings

    @classmethod
    def of(cls, models: HuggingFaceModels) -> "LoraModels":
        """Return the store for the settings of `models`, which include `lora`."""
        lora = LoraSettings.of(models.settings["lora"])
        if "path" not in models.settings:
            raise InputError("model.lora adapts a trained model: set model.path")
        if "torch_dtype" in models.settings:
            raise InputError("model.torch_dtype: with model.lora set model.lora.base_dtype instead")
        settings = {name: value for name, value in models.settings.items() if name != "lora"}
        base = replace(
            models, settings=settings, base_dtype=lora.base_dtype, quantize=lora.quantize
        )
        return cls(base, lora)

    def check(self) -> None:
        """Check without weights that the base model exists and has the targets.

        Raises:
            InputError: it does not, or bitsandbytes is missing.
        """
        self.base.check()
        if self.lora.quantize is not None and not is_bitsandbytes_available():
            raise InputError(
                "model.lora.quantize needs bitsandbytes, which is missing here or too old: "
                "install attent-select[quantize], or set base_dtype: bfloat16 instead"
            )
        self.without_weights()

    def without_weights(self) -> torch.nn.Module:
        """Return the model's modules on the device `meta`, which takes no time and no memory."""
        return self._add_adapter(self.base.without_weights())

    def build(self, seed: int) -> torch.nn.Module:
        """Return the base model with a new adapter, which does not change its outputs yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._add_adapter(_base_model(self.base).with_shared_tensors())

    def load(self, folder: Path) -> torch.nn.Module:
        """Return the base model with the adapter saved in `folder`, in eval mode.

        Raises:
            MissingError: there is no adapter in the folder.
            InputError: the adapter does not fit these settings.
        """
        model = self._add_adapter(_base_model(self.base).with_shared_tensors())
        _load_adapter(model, folder)
        return model.eval()

    def save(
        self,
        model: torch.nn.Module,
        folder: Path,
        *,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Write adapter_config.json and the adapter's safetensors in PEFT's layout."""
        assert isinstance(model, PeftModel)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in _adapter_tensors(model, weights).items()
        }
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        model.peft_config["default"].save_pretrained(str(folder))

    def digest(self, model: torch.nn.Module) -> str:
        """Return a hash of the adapter and its base model."""
        digest = hashlib.blake2b(_base_model(self.base).digest.encode(), digest_size=16)
        digest.update(tensors_digest(_adapter_tensors(model)).encode())
        return digest.hexdigest()

    def merged(self, folder: Path) -> torch.nn.Module:
        """Return the base model with the adapter saved in `folder` merged into its weights."""
        model = self._add_adapter(replace(self.base, quantize=None).build(0))
        _load_adapter(model, folder)
        merged: torch.nn.Module = model.eval().merge_and_unload()
        return merged

    def _add_adapter(self, base: torch.nn.Module) -> PeftModel:
        model: Any = base  # PEFT declares PreTrainedModel, and adapts any module
        try:
            adapted = get_peft_model(model, self.lora.peft_config())
        except (ValueError, TypeError) as error:
            names = {
                name.rpartition(".")[2]
                for name, module in base.named_modules()
                if isinstance(module, torch.nn.Linear)
            }
            raise InputError(
                f"model.lora: {error}; the linear layers of the model are "
                f"{', '.join(sorted(names))}"
            ) from error
        assert isinstance(adapted, PeftModel)
        unmatched = [name for name in self.lora.also_train if not _has_module(base, name)]
        if unmatched:
            raise InputError(
                f"model.lora.also_train: the model has no module {', '.join(unmatched)}"
            )
        return adapted


class _BaseModel:
    """Base model in memory, with the digest of its weights."""

    def __init__(self, models: HuggingFaceModels) -> None:
        self._model = models.build(0)
        self.digest = weights_digest(self._model)

    def with_shared_tensors(self) -> torch.nn.Module:
        """Return new modules around the same tensors: adapters added to them affect no other."""
        tensors = chain(self._model.parameters(), self._model.buffers())
        return copy.deepcopy(self._model, {id(tensor): tensor for tensor in tensors})


_base_model_lock = Lock()
_cached_base_model = lru_cache(maxsize=1)(_BaseModel)


def _base_model(models: HuggingFaceModels) -> _BaseModel:
    with _base_model_lock:
        return _cached_base_model(models)


def _load_adapter(model: PeftModel, folder: Path) -> None:
    """Copy the adapter saved in `folder` into `model`."""
    path = folder / ADAPTER_FILE
    if not path.is_file():
        raise MissingError(f"no adapter in {folder}: expected {ADAPTER_FILE}")
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    # Checked here, because PEFT does not report missing or unexpected tensors.
    expected = _adapter_tensors(model)
    wrong = sorted(saved.keys() ^ expected.keys()) or [
        name for name in saved if saved[name].shape != expected[name].shape
    ]
    if wrong:
        raise InputError(
            f"the adapter in {folder} does not fit the settings of model.lora: {len(wrong)} "
            f"tensors differ, first {', '.join(wrong[:3])}"
        )
    result: Any = set_peft_model_state_dict(model, saved)
    if result.unexpected_keys:
        raise InputError(
            f"the adapter in {folder} does not fit the model: {result.unexpected_keys[:3]}"
        )


def _adapter_tensors(
    model: torch.nn.Module, weights: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors among `weights` (None: the model's own)."""
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict=weights, save_embedding_layers=False
    )
    return tensors


def _has_module(model: torch.nn.Module, name: str) -> bool:
    return any(path == name or path.endswith(f".{name}") for path, _ in model.named_modules())
