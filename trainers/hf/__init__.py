"""The only door to transformers, accelerate and peft."""

import logging

import transformers

from trainers.hf.models import HuggingFaceModels, model_store, save_plain
from trainers.hf.processors import (
    load_image_processor,
    load_processor,
    load_tokenizer,
    save_preprocessing,
)

# Loading and saving says in bars and many lines what our own checks say in one error.
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # theirs
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
# On a CPU it says in every process that it could be quicker there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "HuggingFaceModels",
    "load_image_processor",
    "load_processor",
    "load_tokenizer",
    "model_store",
    "save_plain",
    "save_preprocessing",
]
