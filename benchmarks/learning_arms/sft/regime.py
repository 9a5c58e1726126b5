"""The regime `sft_noisy`: its files, and the losses that it is judged by."""

from pathlib import Path
from typing import Any, Final

from learning_arms.arms import Horizon
from learning_arms.regime import Data, Regime
from learning_arms.sft.annotations import annotate
from learning_arms.sft.arms import sft_arms
from learning_arms.sft.base import LENGTH, make_base
from learning_arms.sft.kept import kept_shares
from learning_arms.sft.parts import GSM8K, PROSE, Sizes, make_parts
from learning_arms.trial import held_out

_TEMPLATE: Final = "Instruction: {instruction}\n{input}\nResponse: "


def sft_noisy(*, gpu: bool, sizes: Sizes | None = None) -> Regime:
    """Return the regime; `sizes` of a small one for tests."""
    sizes = sizes or (Sizes(40_000, 12_000, 400, 1_000) if gpu else Sizes())

    def data(source: Path, folder: Path) -> Data:
        parts = make_parts(source, folder, sizes=sizes)
        base, facts = make_base(parts.base, folder, gpu=gpu)
        task = {
            "name": "causal_lm",
            "tokenizer": base,
            "template": _TEMPLATE,
            "response": "output",
            "max_length": LENGTH,
            "packing": True,
        }
        corpus = folder / "corpus"
        costs = annotate(parts, corpus, base=base, task=task)
        return Data(
            train=parts.pool,
            curve=None,
            final=parts.judged["all"],
            sections={"task": task, "model": {"path": base}, "corpus": {"path": str(corpus)}},
            costs=costs,
            judged=parts.judged,
            digest=f"{parts.digest}-{facts['digest']}",
            notes={"base": facts, "kept": kept_shares(corpus)},
        )

    return Regime(
        Horizon(epochs=1, same_cost=1, rounds=1),
        data=data,
        sections={
            "scoring": {"max_failed_share": 0.2},  # prompts that fill max_length leave no response
            "training": {
                "batch_size": 64 if gpu else 8,
                "warmup_steps": 10,
                **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
            },
        },
        quality="eval_loss",
        probe=_Losses,
        named_arms=sft_arms(),
        is_judged_by_curves=True,
        learning_rates=(1e-3, 3e-3),
        tuned="uniform 1 ×",
    )


class _Losses:
    """Loss of word problems, and of prose of the kind that the base was trained on."""

    def __init__(self, data: Data) -> None:
        task = data.sections["task"]
        prose = {name: task[name] for name in ("name", "tokenizer", "max_length", "packing")}
        tasks: dict[str, Any] = {GSM8K: task, PROSE: prose | {"text": "text"}}
        self._sets = {
            name: held_out(data.judged[name], {"task": each}) for name, each in tasks.items()
        }

    def metrics(self, model: Any) -> dict[str, float]:
        return {
            f"{name}_loss": part.metrics(model)["eval_loss"] for name, part in self._sets.items()
        }
