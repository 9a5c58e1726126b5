"""Data of `attent demo`: real data that ships with the installed packages.

Scikit-learn's handwritten digits as PNG samples, and the docstrings of the Python standard library
as (prompt, response) samples. The same installation gives the same samples in the same order.
"""

import ast
import inspect
import io
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from attent_select.errors import InputError
from catalogs.shard_format import Sample

_HELD_OUT = 5  # one sample of five is held out
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}
_MAX_PROMPT = 90  # characters: the context of the demo's model is short
_MAX_RESPONSE = 600


def digits(*, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return 1,797 images of 8 × 8 pixels (PNG bytes in `image`, 0…9 in `label`).

    The first list is for training, the second one is held out.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    samples: list[Sample] = []
    for pixels, label in zip(bunch.images, bunch.target, strict=True):
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15).astype("uint8"), mode="L").save(buffer, format="PNG")
        samples.append({"image": buffer.getvalue(), "label": int(label)})
    return _split(samples, seed=seed)


def docstrings(*, seed: int, limit: int) -> tuple[list[Sample], list[Sample]]:
    """Return at most `limit` functions and classes of the standard library: training, held out.

    `prompt` is the qualified name and the (short) signature, `response` the docstring. Sources are
    parsed, never imported.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    samples = [
        sample
        for path in sorted(library.rglob("*.py"))
        if not _SKIPPED.intersection(path.relative_to(library).parts)
        for sample in _definitions_of(path, library=library)
    ]
    if not samples:
        raise InputError(f"{library}: the Python sources of the standard library are not installed")
    random.Random(seed).shuffle(samples)  # noqa: S311 - not for secrets
    return _split(samples[:limit], seed=seed)


def _split(samples: list[Sample], *, seed: int) -> tuple[list[Sample], list[Sample]]:
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)  # noqa: S311 - not for secrets
    num_held_out = len(samples) // _HELD_OUT
    held_out, training = order[:num_held_out], order[num_held_out:]
    return [samples[row] for row in sorted(training)], [samples[row] for row in sorted(held_out)]


def _definitions_of(path: Path, *, library: Path) -> Iterator[Sample]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # sources for another version of Python, kept as test data
    module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
    yield from _definitions_in(tree, scope=module)


def _definitions_in(tree: ast.AST, *, scope: str) -> Iterator[Sample]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        name = f"{scope}.{node.name}"
        docstring = ast.get_docstring(node, clean=False)
        prompt = f"{name}{_signature(node)}"
        if docstring and docstring.strip() and len(prompt) <= _MAX_PROMPT:
            yield {"prompt": prompt, "response": inspect.cleandoc(docstring)[:_MAX_RESPONSE]}
        if isinstance(node, ast.ClassDef):
            yield from _definitions_in(node, scope=name)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(ast.unparse(parent) for parent in node.bases)})"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"
