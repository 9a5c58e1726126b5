"""For every task in `trainers/tasks/`: its settings, a tiny model, good samples and bad ones.

A new task adds one entry to `CASES`; `tests/conformance/test_tasks.py` fails until it has one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits import TASK, VIT, samples

from catalogs.shard_format import Sample
from trainers.task import Task
from trainers.tasks.causal_lm import CausalLm
from trainers.tokenizer import train_tokenizer

TEXTS = [
    ("add(a, b)", "Return the sum of a and b."),
    (
        "open(file, mode='r')",
        "Open file and return a corresponding file object. The mode says how.",
    ),
    ("len(s)", "Return the number of items in a container."),
    ("sorted(iterable)", "Return a new list with all items from the iterable in ascending order."),
    ("id(obj)", "Return the identity."),
    ("äöü(ß)", "Größe: 3 µm — naïve façade 漢字 🙂"),
    ("exit()", "x"),
]

LLAMA: dict[str, Any] = {
    "config": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 300,
        "max_position_embeddings": 128,
    }
}


@dataclass(frozen=True)
class Case:
    """A task to test. `bad` are samples with the status they must get; `units` of the good ones."""

    task: Task
    model: dict[str, Any]
    good: list[Sample]
    units: list[int]
    bad: list[tuple[Sample, str]]


def image_classification(folder: Path) -> Case:
    good = samples(12)
    half = good[0]["image"][: len(good[0]["image"]) // 2]
    return Case(
        task=TASK,
        model=VIT,
        good=good,
        units=[1] * len(good),
        bad=[
            ({"image": b"no image at all", "label": 1}, "unreadable"),
            ({"image": half, "label": 1}, "unreadable"),
            ({"image": "text", "label": 1}, "unreadable"),
            ({"image": None, "label": 1}, "empty"),
            ({"image": good[0]["image"], "label": None}, "empty"),
            ({"image": good[0]["image"], "label": "seven"}, "unreadable"),
            ({"image": good[0]["image"], "label": -1}, "unreadable"),
            ({"image": good[0]["image"], "label": 10**30}, "unreadable"),
        ],
    )


def causal_lm(folder: Path) -> Case:
    train_tokenizer((f"{prompt}\n{response}" for prompt, response in TEXTS), folder, vocab_size=300)
    task = CausalLm(tokenizer=str(folder), prompt="prompt", response="response", max_length=96)
    good = [{"prompt": prompt, "response": response} for prompt, response in TEXTS]
    counted = [sum(label >= 0 for label in task.prepare(s, generator=None)["labels"]) for s in good]
    return Case(
        task=task,
        model=LLAMA,
        good=good,
        units=counted,
        bad=[
            ({"prompt": "f()", "response": ""}, "empty"),
            ({"prompt": "f()", "response": None}, "empty"),
            ({"prompt": 3, "response": "three"}, "unreadable"),
            ({"prompt": "f()", "response": "\ud800"}, "unreadable"),
            ({"prompt": "long " * 200, "response": "never reached"}, "too_long"),
        ],
    )


CASES: dict[str, Callable[[Path], Case]] = {
    "causal_lm": causal_lm,
    "image_classification": image_classification,
}
