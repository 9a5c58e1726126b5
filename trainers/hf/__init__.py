"""The only door to transformers, accelerate and peft."""

import logging

# On a CPU, every process logs on import of bitsandbytes what could be faster.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# ruff: noqa: E402
import transformers

from trainers.hf.chat_rendering import (
    Span,
    chat_template_of,
    compile_template,
    has_markers,
    render_chat,
)
from trainers.hf.model_store import model_store, save_plain
from trainers.hf.models import HuggingFaceModels
from trainers.hf.packing import packs_exactly, row_tokens
from trainers.hf.processors import (
    load_image_processor,
    load_processor,
    load_tokenizer,
    save_preprocessing,
)

# Progress bars and messages of loading and saving repeat what our own checks report.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

__all__ = [
    "HuggingFaceModels",
    "Span",
    "chat_template_of",
    "compile_template",
    "has_markers",
    "load_image_processor",
    "load_processor",
    "load_tokenizer",
    "model_store",
    "packs_exactly",
    "render_chat",
    "row_tokens",
    "save_plain",
    "save_preprocessing",
]
