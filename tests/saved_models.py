"""Small saved models with their tokenizers, for annotations that use one."""

import copy
from collections.abc import Iterable
from pathlib import Path

from task_cases import LLAMA, TEXTS

from trainers.inputs.tokenizer import train_tokenizer
from trainers.tasks.causal_lm import CausalLm


def save_language_model(
    folder: Path, *, texts: Iterable[str] | None = None, vocab_size: int = 300
) -> Path:
    """Save an untrained causal language model, and a tokenizer trained on `texts`."""
    texts = texts or (f"{prompt}\n{response}" for prompt, response in TEXTS)
    train_tokenizer(texts, folder, vocab_size=vocab_size)
    settings = copy.deepcopy(LLAMA)
    settings["config"] |= {"vocab_size": vocab_size, "max_position_embeddings": 512}
    models = CausalLm(tokenizer=str(folder), text="text").models(settings)
    models.save(models.build(0), folder)
    return folder
