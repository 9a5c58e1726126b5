"""What the newest checkpoint of a run says about samples, on demand: only this needs torch."""

import base64
import colorsys
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError
from attent_select.extras import missing_extras_named
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.layout import Layout
from pipeline.config import run_config
from pipeline.config.trust import check_run, import_formats
from pipeline.explorer.sample_view import read_sample
from pipeline.explorer.source import Source

# Threads that read the samples of one batch, and its most samples.
_THREADS: Final = 8
MAX_CHECKED: Final = 64
# Colours u8[classes + 1, 3]: black for pixels that do not count, then one for each class.
_HUES = np.arange(1024) * 0.618034 % 1.0
_COLORS: Final[npt.NDArray[np.uint8]] = np.array(
    [
        (0, 0, 0),
        *(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(h, 0.65, 0.95)) for h in _HUES),
    ],
    np.uint8,
)
# What a task is asked for.
_KINDS: Final = {
    "causal_lm": "tokens",
    "image_classification": "classes",
    "semantic_segmentation": "maps",
}


class Predictor:
    """The model of a run, loaded at the first request and kept. Thread-safe."""

    def __init__(self, *, trust_run: bool = False) -> None:
        self._trust_run = trust_run
        self._lock = threading.Lock()
        self._loaded: tuple[str, Any, Any] | None = None

    def predict(self, source: Source, shard_id: int, row: int) -> dict[str, Any]:
        """Return `tokens` [text, nats], `classes` [name, probability] or `maps` [title, picture],
        and the checkpoint.

        Raises:
            InputError: the run has no checkpoint, its task predicts nothing, or the sample cannot
                be used.
        """
        sample = read_sample(source, shard_id, row)
        if sample.reason:
            raise InputError(sample.reason)
        with self._lock, missing_extras_named():
            from trainers.scoring import single_sample
            from trainers.scoring.label_check import check_labels

            name, task, model = self._model(source)
            answer: dict[str, Any] = {"checkpoint": name}
            if isinstance(task, single_sample.HasTokenLosses):
                tokens = single_sample.token_losses_of(task, model, sample.values)
                return answer | {"tokens": [[one.text, one.nats] for one in tokens]}
            if isinstance(task, single_sample.HasPixelMaps):
                maps = single_sample.pixel_maps_of(task, model, sample.values)
                return answer | {"maps": _pictures(maps)}
            classes = single_sample.class_probabilities_of(task, model, sample.values)
            (check,) = check_labels(task, model, [sample.values])
            return answer | {"classes": classes, "label": check.label or None}

    def check(self, source: Source, ids: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return the label of each sample and the most probable other class, with probabilities, or
        the reason why it has none; and the checkpoint.

        Raises:
            InputError: the run has no checkpoint, or its task predicts no class.
        """
        stored = list(
            ordered_map(lambda pair: read_sample(source, *pair), ids, num_threads=_THREADS)
        )
        with self._lock, missing_extras_named():
            from trainers.scoring.label_check import check_labels

            name, task, model = self._model(source)
            checks = iter(
                check_labels(task, model, [one.values for one in stored if not one.reason])
            )
        samples = [
            {"shard_id": shard_id, "row": row}
            | ({"reason": one.reason} if one.reason else asdict(next(checks)))
            for (shard_id, row), one in zip(ids, stored, strict=True)
        ]
        return {"checkpoint": name, "samples": samples}

    def _model(self, source: Source) -> tuple[str, Any, Any]:
        """Return the name of the newest checkpoint, the task and the model."""
        from trainers import checkpoint

        layout = Layout(source.url)
        numbers = [*reversed(source.indexes), *reversed(source.rounds)]
        urls = [layout.checkpoint(number) for number in numbers]
        for url in [*dict.fromkeys(urls), layout.initial_checkpoint]:
            opened = checkpoint.open(url)
            if opened is None:
                continue
            key = f"{url} {opened.weights_digest}"
            if self._loaded is None or self._loaded[0] != key:
                self._loaded = None
                task, settings = self._task(source)
                self._loaded = (key, task, opened.load(task.models(settings)).eval())
            return url.rpartition("/")[2], self._loaded[1], self._loaded[2]
        raise InputError(f"{source.url} has no checkpoint: train a round first")

    def _task(self, source: Source) -> tuple[Any, Any]:
        """Return the task of the run and the settings of its model."""
        if self._trust_run:
            import_formats(source.url)
        else:
            check_run(source.url, ("task", "model"))
        config = run_config.load_frozen(source.url)
        return config.task.task.load(), config.model


def _pictures(maps: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the maps of a sample as titles and PNG in data URLs: a colour for each class."""
    most = max(float(maps["nats"].max()), 1e-6)
    wrong = maps["predicted"].ne(maps["classes"]) & maps["classes"].ge(0)
    share = float(wrong.sum()) / max(1, int(maps["classes"].ge(0).sum()))
    return [
        ("mask", _png(_color_classes(maps["classes"]))),
        (f"predicted ({share:.1%} of the pixels wrong)", _png(_color_classes(maps["predicted"]))),
        (f"loss, up to {most:.3g} nats", _png((maps["nats"] / most * 255).byte().numpy())),
    ]


def _color_classes(classes: Any) -> npt.NDArray[np.uint8]:
    numbers = classes.clamp(min=-1).numpy() + 1
    return _COLORS[np.where(numbers > 0, (numbers - 1) % (len(_COLORS) - 1) + 1, 0)]


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


def predicted_kind(source: Source) -> str:
    """Return what the task of a run predicts, `tokens`, `classes` or `maps`, by its configuration
    alone; empty if nothing.
    """
    if storage.info(Layout(source.url).config) is None:
        return ""
    return _KINDS.get(run_config.frozen_section(source.url, "task").get("name", ""), "")
