"""Optional libraries: which extra of the installation each one belongs to.

The base installation selects, queries and plans. Everything else is an extra, and its absence must
read as an instruction, not as a defect.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from attent_select.errors import MissingExtraError

# Import name → extra, as in pyproject.toml.
EXTRAS = {
    "accelerate": "train",
    "alembic": "mlflow",
    "altair": "report",
    "bitsandbytes": "quantize",
    "dask": "cluster",
    "datasets": "hf",
    "distributed": "cluster",
    "gcsfs": "gcs",
    "jinja2": "report",
    "kornia": "augment",
    "kornia_rs": "augment",
    "lance": "lance",
    "mlflow": "mlflow",
    "peft": "train",
    "PIL": "vision",
    "pynvml": "cuda",
    "pytorch_lightning": "lightning",
    "rensa": "annotate",
    "s3fs": "s3",
    "safetensors": "train",
    "scipy": "annotate",
    "simplejpeg": "decoders",
    "sklearn": "annotate",
    "sqlalchemy": "mlflow",
    "starlette": "explore",
    "tensorboardX": "tensorboard",
    "tokenizers": "train",
    "torch": "train",
    "trackio": "trackio",
    "transformers": "train",
    "uvicorn": "explore",
    "vl_convert": "report",
    "wandb": "wandb",
}


@contextmanager
def missing_extras_named() -> Iterator[None]:
    """Turn a missing library into the extra to install.

    Raises:
        MissingExtraError: an import in the context did not find a library of an extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise MissingExtraError(
            f'{library} is not installed: run pip install "attent-select[{EXTRAS[library]}]" '
            '("attent-select[all]" has everything that a run needs)'
        ) from error
