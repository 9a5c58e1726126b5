"""Adapters (LoRA, DoRA, QLoRA) through PEFT: built, loaded and saved without the model below them.

The store for `model.lora`. A process loads the base model once. Every adapter gets modules of
its own around the base's tensors, so that switching one costs milliseconds, and threads with
different adapters do not meet.
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
from transformers.utils import is_bitsandbytes_available

from attent_select.errors import InputError, MissingError
from trainers.checkpoint import tensors_digest, weights_digest
from trainers.hf.models import HuggingFaceModels

# PEFT asks transformers for it under its old name, at every adapter.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

ADAPTER = "adapter_model.safetensors"
_ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Lora:
    """Settings of `model.lora`.

    `targets` are names of linear layers (`q_proj`), or `all-linear`: all but the head. `dora` also
    learns the magnitude of every weight column. `also_train` names modules that are trained and
    saved whole (a new head). `base_dtype` is that of the frozen weights, or with `quantize: 4bit`
    (QLoRA, needs bitsandbytes) that of computing with them.
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
            raise InputError(f"model.lora.dropout is {self.dropout}: expected 0 up to 1")
        if self.base_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"model.lora.base_dtype is {self.base_dtype!r}: expected float32 or bfloat16"
            )
        # Not 8 bits: which numbers of a token are computed with in 16 depends on the whole batch.
        if self.quantize not in (None, "4bit"):
            raise InputError(f"model.lora.quantize is {self.quantize!r}: expected 4bit")

    @classmethod
    def of(cls, values: Any) -> "Lora":
        """From the configuration's plain values."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or (unknown := values.keys() - set(known)):
            wrong = sorted(unknown) if isinstance(values, Mapping) else values
            raise InputError(f"model.lora: {wrong} unknown, expected some of {', '.join(known)}")
        return cls(**values)

    def config(self) -> LoraConfig:
        """What PEFT calls it."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            use_dora=self.dora,
            modules_to_save=list(self.also_train) or None,
        )


@dataclass(frozen=True)
class AdapterModels:
    """A model store whose checkpoints hold the adapter alone."""

    base: HuggingFaceModels
    lora: Lora

    @classmethod
    def of(cls, whole: HuggingFaceModels) -> "AdapterModels":
        """The store for the settings of `whole`, which have `lora`."""
        lora = Lora.of(whole.settings["lora"])
        if "path" not in whole.settings:
            raise InputError("model.lora adapts a trained model: name it by model.path")
        rest = {name: value for name, value in whole.settings.items() if name != "lora"}
        base = replace(whole, settings=rest, dtype=lora.base_dtype, quantize=lora.quantize)
        return cls(base, lora)

    def check(self) -> None:
        """Without weights: whether there is such a model and the targets are in it.

        Raises:
            InputError: there is not, they are not, or bitsandbytes is missing.
        """
        self.base.check()
        if self.lora.quantize is not None and not is_bitsandbytes_available():
            raise InputError(
                "model.lora.quantize needs bitsandbytes, which is not installed here or too old: "
                "install attent-select[quantize], or set base_dtype: bfloat16 instead"
            )
        self._adapted(self.base.without_weights())

    def build(self, seed: int) -> torch.nn.Module:
        """The base model with a new adapter that changes nothing yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._adapted(_base(self.base).shared())

    def load(self, folder: Path) -> torch.nn.Module:
        """The base model with the adapter saved in `folder`, in eval mode.

        Raises:
            MissingError: there is no adapter in the folder.
            InputError: it is not one of these settings.
        """
        return self._filled(self._adapted(_base(self.base).shared()), folder)

    def save(
        self,
        model: torch.nn.Module,
        folder: Path,
        *,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Write adapter_config.json and the adapter's safetensors, as PEFT lays them out."""
        assert isinstance(model, PeftModel)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in _adapter(model, weights).items()
        }
        save_file(state, folder / ADAPTER, metadata={"format": "pt"})
        model.peft_config["default"].save_pretrained(str(folder))

    def digest(self, model: torch.nn.Module) -> str:
        """Hash of the adapter and of the base model below it."""
        digest = hashlib.blake2b(_base(self.base).digest.encode(), digest_size=16)
        digest.update(tensors_digest(_adapter(model)).encode())
        return digest.hexdigest()

    def merged(self, folder: Path) -> torch.nn.Module:
        """A plain model: the base's weights with the saved adapter added to them."""
        fresh = replace(self.base, quantize=None).build(0)
        merged: torch.nn.Module = self._filled(self._adapted(fresh), folder).merge_and_unload()
        return merged

    def _adapted(self, base: torch.nn.Module) -> PeftModel:
        try:
            adapted = get_peft_model(base, self.lora.config())
        except (ValueError, TypeError) as error:
            names = {
                name.rpartition(".")[2]
                for name, module in base.named_modules()
                if isinstance(module, torch.nn.Linear)
            }
            raise InputError(
                f"model.lora: {error}; the model's linear layers are called "
                f"{', '.join(sorted(names))}"
            ) from error
        assert isinstance(adapted, PeftModel)
        unmatched = [name for name in self.lora.also_train if not _has_module(base, name)]
        if unmatched:
            raise InputError(f"model.lora.also_train: the model has no {', '.join(unmatched)}")
        return adapted

    def _filled(self, model: PeftModel, folder: Path) -> Any:
        path = folder / ADAPTER
        if not path.is_file():
            raise MissingError(f"no adapter in {folder}: expected {ADAPTER}")
        try:
            saved = load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        # Checked here: what PEFT is given too much or too little of, it does not mention.
        expected = _adapter(model)
        wrong = sorted(saved.keys() ^ expected.keys()) or [
            name for name in saved if saved[name].shape != expected[name].shape
        ]
        if wrong:
            raise InputError(
                f"the adapter in {folder} is not one of model.lora: {', '.join(wrong[:3])} of "
                f"{len(wrong)} differ"
            )
        if unexpected := set_peft_model_state_dict(model, saved).unexpected_keys:
            raise InputError(f"the adapter in {folder} does not fit the model: {unexpected[:3]}")
        return model.eval()


class _Base:
    """A base model in memory, with the digest of its weights."""

    def __init__(self, store: HuggingFaceModels) -> None:
        self._model = store.build(0)
        self.digest = weights_digest(self._model)

    def shared(self) -> torch.nn.Module:
        """New modules around the same tensors: what is put between them is not seen by others."""
        tensors = chain(self._model.parameters(), self._model.buffers())
        return copy.deepcopy(self._model, {id(tensor): tensor for tensor in tensors})


_loading = Lock()
_loaded = lru_cache(maxsize=1)(_Base)


def _base(store: HuggingFaceModels) -> _Base:
    with _loading:
        return _loaded(store)


def _adapter(
    model: torch.nn.Module, weights: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The adapter's part of the model's weights, or of those given."""
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict=weights, save_embedding_layers=False
    )
    return found


def _has_module(model: torch.nn.Module, name: str) -> bool:
    return any(found == name or found.endswith(f".{name}") for found, _ in model.named_modules())
