"""Drift of the attention neural tangent kernel, its prediction of a step, and the ranking of
samples by ‖∂ℓ/∂f‖ compared with the loss.

Trains small models from scratch with a constant learning rate: a ViT with weights initialised from
N(0, 1/width), as in the theory of kernels, the same with the library's N(0, 0.02²), and a language
model; then the ViT with a learning rate that decays to 0, as in a run. During training it measures
the exact kernel of 48 probe samples for f = the target's logit. At some steps it also scores
samples that were not trained on, by loss and by functional gradient, and takes gradient descent
steps with decreasing learning rates on the probe (float64). Writes JSON and a figure to
benchmarks/results/.

    python benchmarks/antk.py                                        # digits and docstrings
    python benchmarks/antk.py --images train.parquet --text train.parquet   # image + label; text
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np
import polars as pl
import torch

from attent_select.errors import SampleError
from pipeline.demo.data import digits, docstrings
from trainers.antk import (
    Function,
    Output,
    check_steps,
    drift,
    effective_rank,
    eigenvalues,
    empirical_kernel,
)
from trainers.inputs.tokenizer import train_tokenizer
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.task import Batch, Item
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.image_classification import ImageClassification

RESULTS = Path(__file__).parent / "results"
PROBE, SCORED, SHARE = 48, 2000, 0.3
RATES = (1e-2, 1e-3, 1e-4, 1e-5)
VOCABULARY, TOKENS, WIDTH = 1024, 64, 64


@dataclass(frozen=True)
class Learner:
    """A model and its data. Adam's learning rate is constant after a short warm-up, or half a
    cosine with `decays`. `is_variant`: a variant of another learner, of which only kernels are
    measured.
    """

    name: str
    task: Any
    model: dict[str, Any]
    samples: Sequence[dict[str, Any]]
    batch_size: int
    learning_rate: float
    decays: bool = False
    is_variant: bool = False


def vit(name: str, images: Path | None, *, initializer_range: float) -> Learner:
    if images is None:
        samples, size = digits(seed=0)[0], 8
    else:
        samples, size = pl.read_parquet(images, columns=["image", "label"]).to_dicts(), 28
    config = {
        "model_type": "vit",
        "image_size": size,
        "patch_size": size // 4,
        "num_channels": 1,
        "num_labels": 10,
        "initializer_range": initializer_range,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    task = ImageClassification(image_size=size, num_channels=1)
    return Learner(name, task, {"config": config}, samples, batch_size=64, learning_rate=3e-4)


def language_model(text: Path | None, folder: Path) -> Learner:
    if text is None:
        samples = [{"text": s["response"]} for s in docstrings(seed=0, limit=20_000)[0]]
    else:
        samples = pl.read_parquet(text, columns=["text"]).to_dicts()
    train_tokenizer((s["text"] for s in samples[:20_000]), folder, vocab_size=VOCABULARY)
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": TOKENS,
    }
    task = CausalLm(tokenizer=str(folder), text="text", max_length=TOKENS)
    return Learner(
        "language model", task, {"config": config}, samples, batch_size=32, learning_rate=1e-3
    )


def shuffle(learner: Learner) -> list[dict[str, Any]]:
    order = np.random.default_rng(0).permutation(len(learner.samples))
    return [learner.samples[place] for place in order]


def items(task: Any, samples: Sequence[dict[str, Any]]) -> Iterator[Item]:
    for sample in samples:
        try:
            yield task.prepare(sample, generator=None)
        except SampleError:
            continue


def batches(learner: Learner, samples: Sequence[dict[str, Any]]) -> Iterator[Batch]:
    """Repeat the batches forever, in the same order."""
    prepared: list[Item] = []
    for item in items(learner.task, cycle(samples)):  # type: ignore[arg-type]
        prepared.append(item)
        if len(prepared) == learner.batch_size:
            yield learner.task.collate(prepared)
            prepared = []


def training(
    learner: Learner, samples: Sequence[dict[str, Any]], *, num_steps: int
) -> Iterator[torch.nn.Module]:
    """Yield the model before the first step and after each step."""
    model = learner.task.models(learner.model).build(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=learner.learning_rate)

    def share(step: int) -> float:
        falling = (1 + math.cos(math.pi * step / num_steps)) / 2 if learner.decays else 1.0
        return falling * min(1.0, (step + 1) / 20)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    yield model
    for batch in batches(learner, samples):
        model.train()
        losses, num_units = learner.task.per_sample_loss(model, batch)
        optimizer.zero_grad()
        losses[num_units > 0].mean().backward()
        optimizer.step()
        schedule.step()
        yield model


def follow(learner: Learner, *, num_steps: int, every: int) -> dict[str, Any]:
    """Train, and measure the kernel at regular steps."""
    samples = shuffle(learner)
    held = samples[: PROBE + min(SCORED, len(samples) // 2)]
    probe = [learner.task.collate([item]) for item in items(learner.task, held[:PROBE])]
    points: list[dict[str, Any]] = []
    kernels: list[np.ndarray] = []
    compared: list[dict[str, float]] = []
    predicted: list[dict[str, Any]] = []
    for step, model in enumerate(training(learner, samples[len(held) :], num_steps=num_steps)):
        if step % every == 0:
            function = Function(model, probe, Output.of(learner.task, "target"))
            kernel = empirical_kernel(function).total
            points.append({"step": step} | numbers(kernel, kernels[-1] if kernels else None))
            kernels.append(kernel)
            print(learner.name, points[-1]["step"], points[-1]["drift"], file=sys.stderr)
        if step in (0, num_steps // 10, num_steps // 3, num_steps) and not learner.is_variant:
            compared.append({"step": step} | compare(learner, model, held[PROBE:]))
        if step == num_steps // 3 and not learner.is_variant:
            predicted = predictions(learner, model, probe)
        if step == num_steps:
            break
    for point, kernel in zip(points, kernels, strict=True):
        point["distance_to_last"] = drift(kernels[-1], kernel)
    about = {"learner": learner.name, "learning_rate": learner.learning_rate}
    return about | {"kernels": points, "steps": predicted, "scores": compared}


def numbers(kernel: np.ndarray, before: np.ndarray | None) -> dict[str, Any]:
    measurement: dict[str, Any] = {"drift": None, "turned": None}
    if before is not None:
        measurement["drift"] = drift(kernel, before)
        # 1 − cos(K_t, K_{t−1}): the drift without its scale.
        size = np.linalg.norm(kernel) * np.linalg.norm(before)
        measurement["turned"] = 1.0 - float((kernel * before).sum() / size)
    return measurement | {
        "trace": float(np.trace(kernel)),
        "effective_rank": effective_rank(kernel),
        "eigenvalues": eigenvalues(kernel)[:10].tolist(),
    }


def predictions(
    learner: Learner, model: torch.nn.Module, probe: Sequence[Batch]
) -> list[dict[str, Any]]:
    output = Output.of(learner.task, "loss")
    function = Function(model, probe, output, dtype="float64")
    steps = check_steps(function, empirical_kernel(function), learning_rates=RATES)
    return [vars(step) for step in steps]


def compare(
    learner: Learner, model: torch.nn.Module, samples: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Loss against ‖∂ℓ/∂f‖: rank correlation, and the shared part of the top SHARE."""
    seconds = {}
    for with_gradient in (False, True):
        settings = ScoringSettings(functional_gradient=with_gradient)
        started = process_time()
        scores = score_rows(learner.task, model, enumerate(samples), settings=settings)
        seconds[with_gradient] = process_time() - started
    scores = scores.drop_nulls()
    top = round(len(scores) * SHARE)
    tops = [set(scores.top_k(top, by=name)["row"]) for name in ("loss", "functional_gradient")]
    rank = scores.select(pl.corr("loss", "functional_gradient", method="spearman")).item()
    return {
        "loss": float(scores["loss"].mean()),  # type: ignore[arg-type]
        "functional_gradient": float(scores["functional_gradient"].mean()),  # type: ignore[arg-type]
        "rank_correlation": rank,
        "top_overlap": len(tops[0] & tops[1]) / top,
        "cpu_of_loss_alone": seconds[True] / seconds[False],
    }


def plot(results: Sequence[dict[str, Any]], path: Path, *, every: int) -> None:
    import altair as alt

    kernels = table(results, "kernels")
    scores = table(results, "scores").unpivot(
        ["rank_correlation", "top_overlap"], index=["learner", "step"], variable_name="measure"
    )
    log = alt.Scale(type="log")

    def line(rows: pl.DataFrame, title: str, x: alt.X, y: alt.Y) -> alt.Chart:
        chart = alt.Chart(rows, title=title, width=380, height=250).mark_line(point=True)
        return chart.encode(x=x, y=y, color=alt.Color("learner:N", sort=None))

    step = alt.X("step:Q")
    charts = [
        line(kernels, f"drift of the kernel per {every} steps", step, alt.Y("drift:Q")),
        line(kernels, "distance to the last kernel", step, alt.Y("distance_to_last:Q")),
        line(
            table(results, "steps"),
            "‖Δf − predicted by K‖ after a step of learning rate η",
            alt.X("learning_rate:Q", scale=log, title="η"),
            alt.Y("error:Q", scale=log, title=None),
        ),
        line(scores, "loss against ‖∂ℓ/∂f‖", step, alt.Y("value:Q", title=None)).encode(
            strokeDash="measure:N"
        ),
    ]
    alt.vconcat(alt.hconcat(*charts[:2]), alt.hconcat(*charts[2:])).save(path, scale_factor=2)


def table(results: Sequence[dict[str, Any]], name: str) -> pl.DataFrame:
    return pl.DataFrame(
        [{"learner": result["learner"], **row} for result in results for row in result[name]]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a Parquet file: image (28 × 28 PNG), label")
    parser.add_argument("--text", type=Path, help="a Parquet file: text")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50, help="steps between two kernels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--name", default="antk", help="of the result files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        learners = [
            vit("ViT", options.images, initializer_range=WIDTH**-0.5),
            language_model(options.text, Path(folder)),
        ]
        whole = learners[0]
        small = vit("ViT, weights N(0, 0.02²)", options.images, initializer_range=0.02)
        learners += [
            replace(whole, name="ViT, decaying learning rate", decays=True, is_variant=True),
            replace(small, is_variant=True),
        ]
        started = monotonic()
        results = [
            follow(learner, num_steps=options.steps, every=options.every) for learner in learners
        ]
    about = {
        "images": options.images.name if options.images else "digits",
        "text": options.text.name if options.text else "docstrings",
        "probe": PROBE,
        "scored": SCORED,
        "top_share": SHARE,
        "seconds": round(monotonic() - started, 1),
        "machine": {"torch_threads": 1, "load_average": os.getloadavg()},
    }
    options.results.mkdir(exist_ok=True)
    text = json.dumps(about | {"results": results}, indent=1)
    (options.results / f"{options.name}.json").write_text(text + "\n")
    plot(results, options.results / f"{options.name}.png", every=options.every)
    for result in results:
        print(result["learner"])
        print(pl.DataFrame(result["kernels"]).drop("eigenvalues"))
        if result["steps"]:
            print(pl.DataFrame(result["steps"]), pl.DataFrame(result["scores"]))


if __name__ == "__main__":
    main()
