"""What to use when: the defaults by kind of corpus that follow from docs/learning.md."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pipeline.config.sections import RunConfig

# Tasks whose model reads images and nothing else.
IMAGE_TASKS: Final = (
    *("image_classification", "semantic_segmentation", "dense_regression"),
    *("masked_image_modeling", "diffusion"),
)
# Settings of tasks that name a column of answers.
_ANSWERS: Final = ("response", "messages", "chosen")
Kind = Literal["target", "raw", "curated", "fine_tuning", "clean_answers", "images"]


@dataclass(frozen=True)
class Advice:
    """What to do with one kind of corpus.

    Attributes:
        corpus: the kind, in words.
        use: what to use.
        because: what was measured, and where.
        sections: sections of a configuration.
        packs: whether a task on text sets `packing`.
    """

    corpus: str
    use: str
    because: str
    sections: Mapping[str, Any]
    packs: bool = False

    @property
    def sentence(self) -> str:
        """What to use for which corpus, without the period."""
        return f"For {self.corpus}, use {self.use}"


ADVICE: Final[Mapping[Kind, Advice]] = {
    "target": Advice(
        "raw text, with examples of what is wanted",
        "the samples most like the examples (an annotation of kind `ngram` as the key)",
        "77 % less cost than random rows for the same loss of what is wanted (`crawl`)",
        {
            "annotations": {"relevance": {"kind": "ngram"}},
            "selection": {"strategy": "key", "key": "relevance"},
            "schedule": {"epochs": 2, "ratio": {"kind": "fixed", "start": 0.2}},
        },
    ),
    "raw": Advice(
        "raw text, without examples",
        "random rows without duplicates; better, write a hundred examples and select by them",
        "large losses gained less than scoring them cost, low perplexity lost (`crawl`)",
        {
            "selection": {"strategy": "uniform", "distinct": "duplicates"},
            "schedule": {"epochs": 1, "ratio": {"kind": "fixed", "start": 1.0}},
        },
    ),
    "images": Advice(
        "images with copies, rare classes or wrong labels",
        "the student's losses, observed in training, with a guard against wrong labels",
        "35 % less time at a better accuracy than all data, in five seeds (`web`); a sample of "
        "the target did not help (`crawl_images`)",
        {
            "selection": {"strategy": "soft", "clip_high": 0.95, "max_visits": 2},
            "schedule": {
                "epochs": 13,
                "warmup_epochs": 1,
                "ratio": {"kind": "fixed", "start": 0.15},
                "rescore": {"kind": "observed"},
            },
        },
    ),
    "curated": Advice(
        "a curated corpus, of text or images",
        "all data for fewer epochs; packed text, or half of the patches of an image",
        "no selection beat fewer epochs at the same cost (`vision`, `mae`, `segmentation`); "
        "packing saved 44 % (`lengths`), half of the patches 29 % at an accuracy lower by 0.019 "
        "(`patches`)",
        {
            "selection": {"strategy": "uniform"},
            "schedule": {"epochs": 2, "ratio": {"kind": "fixed", "start": 1.0}},
        },
        packs=True,
    ),
    "fine_tuning": Advice(
        "instructions or chats",
        "all data, packed; if answers may be wrong, collect a hundred clean ones",
        "samples with large losses were worse, from a saved model (`lora_dolly`, `lora_gsm8k`)",
        {
            "selection": {"strategy": "uniform"},
            "schedule": {"epochs": 2, "ratio": {"kind": "fixed", "start": 1.0}},
        },
        packs=True,
    ),
    "clean_answers": Advice(
        "instructions or chats, with examples of clean answers",
        "the half whose answers a `classifier` finds most like the examples, packed",
        "24 % less cost than random rows where 40 % of the answers are spoiled, from a saved model "
        "in three seeds (`sft_noisy`)",
        {
            "annotations": {"quality": {"kind": "classifier"}},
            "selection": {"strategy": "key", "key": "quality"},
            "schedule": {"epochs": 2, "ratio": {"kind": "fixed", "start": 0.5}},
        },
        packs=True,
    ),
}


def kind_of(task: str, settings: Mapping[str, Any], *, has_target: bool) -> Kind:
    """Return the kind of a corpus whose quality is not known: that of raw data.

    Args:
        task: name of the task.
        settings: of the task.
        has_target: whether there are examples of what is wanted.
    """
    if task in IMAGE_TASKS:  # examples did not help
        return "images"
    if any(settings.get(name) is not None for name in _ANSWERS):
        return "clean_answers" if has_target else "fine_tuning"
    return "target" if has_target else "raw"


def advice_for(config: RunConfig) -> Iterator[str]:
    """Yield what is advised for a run, and how to know whether it pays."""
    kind = kind_of(
        config.task.name,
        asdict(config.task.task),
        has_target=config.target is not None,
    )
    kinds: tuple[Kind, ...] = (kind, "curated") if kind in ("raw", "images") else (kind,)
    for each in kinds:
        advice = ADVICE[each]
        yield advice.sentence
    if config.target is not None or config.evaluation is not None:
        yield "`attent pilot` measures on this corpus whether it pays"
    else:
        yield "Nothing judges the model: add `evaluation` with held-out shards"


def table() -> str:
    """Return the advice as a table in Markdown."""
    lines = ["| corpus | use | because |", "| --- | --- | --- |"]
    lines += [f"| {each.corpus} | {each.use} | {each.because} |" for each in ADVICE.values()]
    return "\n".join(lines) + "\n"
