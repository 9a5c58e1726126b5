"""Settings of an extension: values that are measured on a sample and predicted for the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le, Lt

from attent_select.errors import InputError
from pipeline.config.validation import check

# Of the command line, `--set extend_model=PATH`.
EXTEND_MODEL: Final = "extend_model"


@dataclass(frozen=True)
class Extension:
    """How the values of an annotation are extended.

    Attributes:
        sample: share of the samples that are measured.
        extend: what the others are predicted from: the n-grams of the columns that the kind reads,
            or the mean hidden states of a model.
        min_fidelity: smallest rank correlation (Spearman's) that is accepted.
        extend_model: the model of the hidden states. Default: the one that annotates.
    """

    sample: Annotated[float, Gt(0), Lt(1)]
    extend: Literal["ngram", "hidden"] = "ngram"
    min_fidelity: Annotated[float, Ge(-1), Le(1)] = 0.5
    extend_model: str | None = None


def extension_of(
    *,
    sample: float | None,
    extend: str | None,
    min_fidelity: float | None,
    extend_model: str | None = None,
) -> Extension | None:
    """Return the extension that the options describe; None if all samples are measured.

    Raises:
        InputError: a value is outside its bounds, or an option is missing.
    """
    values = {
        "sample": sample,
        "extend": extend,
        "min_fidelity": min_fidelity,
        EXTEND_MODEL: extend_model,
    }
    values = {key: value for key, value in values.items() if value is not None}
    if not values:
        return None
    if extend_model is not None and extend != "hidden":
        raise InputError(f"{EXTEND_MODEL} is the model of --extend hidden: leave it out")
    if sample is None or extend is None:
        raise InputError(
            "--sample F measures a share of the samples and --extend KIND predicts the others: give"
            " both, such as --sample 0.1 --extend ngram"
        )
    return check(Extension, values, source="the extension")


def extend_model_of(settings: Sequence[str]) -> str | None:
    """Return the value of `extend_model` among `key=value` settings of a kind; the last one."""
    pairs = [setting.partition("=") for setting in settings]
    models = [value for key, _, value in pairs if key == EXTEND_MODEL]
    return models[-1] if models else None


# Column that says which values of an extended annotation were measured.
MEASURED: Final = "measured"
# Keys of an annotation in a configuration beside the settings of its kind.
EXTENSION_KEYS: Final = tuple(field.name for field in fields(Extension))


def extension_in(entry: Mapping[str, Any]) -> Extension | None:
    """Return the extension of one annotation of a configuration."""
    return extension_of(**{key: entry.get(key) for key in EXTENSION_KEYS})
