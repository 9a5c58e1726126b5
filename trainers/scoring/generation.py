"""Greedy generation after the prompts of a batch; generated answers against expected ones."""

import re
from typing import Any

import torch

from trainers.scoring.token_loss import IGNORED
from trainers.task import Batch


def answer_in(text: str, pattern: str) -> str | None:
    """Return the last match of `pattern` (its first group, if it has one), without spaces,
    thousands separators and a trailing full stop.
    """
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    match = matches[-1]
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
    """Return the number of correct generated answers, and of expected answers.

    The prompt is everything before the last response. Truncated samples, and those whose response
    contains no answer, are left out.
    """
    prompts, expected = [], []
    for ids, labels, is_truncated in zip(
        batch["input_ids"], batch["labels"], batch["truncated"].tolist(), strict=True
    ):
        counted = labels != IGNORED
        begins = torch.nonzero(counted[1:] & ~counted[:-1])
        if is_truncated or not len(begins):
            continue
        first = int(begins[-1]) + 1
        answer = answer_in(_text(tokenizer, ids[first:][counted[first:]]), pattern)
        if answer is not None:
            prompts.append(ids[:first])
            expected.append(answer)
    if not prompts:
        return 0, 0
    generated = _generate(
        model, prompts, tokenizer=tokenizer, padding=padding, max_new_tokens=max_new_tokens
    )
    answers = [answer_in(_text(tokenizer, ids), pattern) for ids in generated]
    hits = sum(answer == right for answer, right in zip(answers, expected, strict=True))
    return hits, len(expected)


def _generate(
    model: Any, prompts: list[torch.Tensor], *, tokenizer: Any, padding: int, max_new_tokens: int
) -> torch.Tensor:
    """Generate greedily: int64[prompts, new tokens]."""
    longest = max(map(len, prompts))
    shape = (len(prompts), longest)
    ids = torch.full(shape, padding, device=prompts[0].device)
    mask = torch.zeros(shape, dtype=torch.int64, device=prompts[0].device)
    for row, prompt in enumerate(prompts):  # padded on the left: new tokens follow on the right
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    num_new = max_new_tokens if limit is None else min(max_new_tokens, limit - longest)
    if num_new < 1:
        return ids[:, :0]
    generated: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=num_new,
        do_sample=False,
        pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id,
    )
    return generated[:, longest:]


def _text(tokenizer: Any, ids: torch.Tensor) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))
