"""Models and tokenizers of Hugging Face transformers: build, load, save.

Here: the one place that calls `from_pretrained`. Not here: training (`training_loop.py`), the files
of a checkpoint beside the weights (`trainers/checkpoint.py`).
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from attent_select.errors import InputError, MissingError

_SETTINGS = {"path", "config", "new_weights", "trust_remote_code"}


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
    """

    auto_class: str
    settings: dict[str, Any] = field(hash=False)
    # Tokens of the longest sample: a model with fewer positions fails in the middle of training.
    num_positions: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.settings) - _SETTINGS:
            raise InputError(
                f"unknown model settings {sorted(unknown)}: expected some of {sorted(_SETTINGS)}"
            )
        if "path" not in self.settings and "model_type" not in self.settings.get("config", {}):
            raise InputError("the model needs `path`, or `config` with a `model_type`")

    def check(self) -> None:
        """Without building anything: whether there is such a model.

        Raises:
            InputError: no model has this type or these fields, or nothing is saved at `path`.
        """
        if "path" in self.settings:
            self._config_at_path()
        else:
            self._new_config()

    def build(self, seed: int) -> torch.nn.Module:
        """A new model in float32 on the CPU, the same bits for the same seed.

        Raises:
            InputError: the configuration is wrong, or the saved model does not fit it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._from_path() if "path" in self.settings else self._from_config()
        self._check_positions(model)
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
        self._check_positions(model)
        return model

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Write config.json and safetensors."""
        model.save_pretrained(folder)  # type: ignore[operator]  # every transformers model has it

    @property
    def _class(self) -> Any:
        return getattr(transformers, self.auto_class)

    def _from_config(self) -> torch.nn.Module:
        config = self._new_config()
        try:
            model: torch.nn.Module = self._class.from_config(config, dtype=torch.float32)
        except (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError) as error:
            raise InputError(f"the model cannot be built: {error}") from error
        return model

    def _new_config(self) -> PreTrainedConfig:
        config = dict(self.settings["config"])
        try:
            built = AutoConfig.for_model(config.pop("model_type"), **config)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise InputError(f"model.config: the model cannot be built: {error}") from error
        _check_known(config, built=built)
        return built

    def _config_at_path(self) -> None:
        path = self.settings["path"]
        config = dict(self.settings.get("config", {}))
        config.pop("model_type", None)
        trusted = bool(self.settings.get("trust_remote_code", False))
        try:
            AutoConfig.from_pretrained(path, trust_remote_code=trusted, **config)
        except (OSError, ValueError, TypeError, StrictDataclassError) as error:
            raise InputError(f"model.path: no model can be loaded from {path}: {error}") from error

    def _check_positions(self, model: Any) -> None:
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and 0 < limit < self.num_positions:
            raise InputError(
                f"the task cuts text at {self.num_positions} tokens, the model has {limit} "
                f"positions: set task.max_length to at most {limit}"
            )

    def _from_path(self) -> torch.nn.Module:
        path = self.settings["path"]
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
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported below, with all of them at once
                **config,
            )
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"the model in {path} cannot be loaded: {error}") from error
        found = {
            "missing": info["missing_keys"],
            "unexpected": info["unexpected_keys"],
            "mismatched": info["mismatched_keys"],
            "errors": info["error_msgs"],
        }
        return model, {name: sorted(map(str, keys)) for name, keys in found.items() if keys}


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


@lru_cache(maxsize=8)
def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer saved at `path`, loaded once per process.

    Raises:
        InputError: there is none, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no tokenizer can be loaded from {path}: {error}") from error
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer in {path} is not a fast one (tokenizer.json)")
    return tokenizer
