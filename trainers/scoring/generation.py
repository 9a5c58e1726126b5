"""Answers that a language model generates, compared with those that were expected.

Prompts out of a batch, greedy generation, the part of a text that is its answer. Not here: when
to evaluate, what a sample is (`tasks/`).
"""

import re
from typing import Any

import torch

from trainers.scoring.token_loss import IGNORED
from trainers.task import Batch


def answer_in(text: str, pattern: str) -> str | None:
    """The last match of `pattern` (its first group, if it has one), without what is not part of a
    number's value: spaces, thousands separators, the full stop after it.
    """
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    match = found[-1]
    answer = match.group(1) if match.re.groups else match.group()
    return (answer or "").replace(",", "").strip().rstrip(".")


def count_matches(
    model: torch.nn.Module,
    batch: Batch,
    *,
    tokenizer: Any,
    padding: int,
    pattern: str,
    max_new_tokens: int,
) -> tuple[int, int]:
    """How many generated answers are the expected ones, and how many answers were expected.

    The prompt is what stands before the last response; samples that were cut, and those whose
    response holds no answer, are left out.
    """
    prompts, expected = [], []
    for ids, labels, cut in zip(
        batch["input_ids"], batch["labels"], batch["truncated"].tolist(), strict=True
    ):
        counted = labels != IGNORED
        begins = torch.nonzero(counted[1:] & ~counted[:-1])
        if cut or not len(begins):
            continue
        first = int(begins[-1]) + 1
        answer = answer_in(_text(tokenizer, ids[first:][counted[first:]]), pattern)
        if answer is not None:
            prompts.append(ids[:first])
            expected.append(answer)
    if not prompts:
        return 0, 0
    generated = _generated(
        model, prompts, tokenizer=tokenizer, padding=padding, max_new_tokens=max_new_tokens
    )
    answers = [answer_in(_text(tokenizer, ids), pattern) for ids in generated]
    hits = sum(found == wanted for found, wanted in zip(answers, expected, strict=True))
    return hits, len(expected)


def _generated(
    model: Any, prompts: list[torch.Tensor], *, tokenizer: Any, padding: int, max_new_tokens: int
) -> torch.Tensor:
    """int64[prompts, new tokens], greedy."""
    longest = max(map(len, prompts))
    shape = (len(prompts), longest)
    ids = torch.full(shape, padding, device=prompts[0].device)
    mask = torch.zeros(shape, dtype=torch.int64, device=prompts[0].device)
    for row, prompt in enumerate(prompts):  # on the left: what is generated follows on the right
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max_new_tokens if limit is None else min(max_new_tokens, limit - longest)
    if room < 1:
        return ids[:, :0]
    found: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=room,
        do_sample=False,
        pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id,
    )
    return found[:, longest:]


def _text(tokenizer: Any, ids: torch.Tensor) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))
