"""The notebooks of the documentation: running their cells, and their pages in Markdown.

`python tests/notebook_pages.py` runs all of them and writes the outputs and the pages. A cell needs
no Jupyter: what it prints and the value of its last line are its outputs.
"""

import ast
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def run_cells(notebook: Notebook) -> Notebook:
    """Return the notebook with its outputs; it runs in an empty folder, with a namespace."""
    names: dict[str, Any] = {"__name__": "__notebook__"}
    notebook = json.loads(json.dumps(notebook))  # a copy
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for count, cell in enumerate(codes, start=1):
            outputs = list(_outputs_of("".join(cell["source"]), names, count))
            cell |= {"execution_count": count, "outputs": outputs}
        text = json.dumps(notebook)
        for name in (os.path.realpath(folder), folder):
            text = text.replace(name, "/notebooks")
    return json.loads(text)


def _outputs_of(source: str, names: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        yield {"name": "stdout", "output_type": "stream", "text": text}
    if value is not None:
        shown = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = [value._repr_html_()]
        yield {
            "data": shown,
            "execution_count": count,
            "metadata": {},
            "output_type": "execute_result",
        }


def page_of(notebook: Notebook, *, name: str) -> str:
    """Return the notebook as a page: its texts, its code, and its outputs below."""
    parts = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        if not number:
            parts.append(f"This page is made from a [notebook]({name}.ipynb), with its outputs.")
        for output in cell.get("outputs", []):
            shown = output.get("data", {"text/plain": output.get("text")})
            if "text/html" in shown:
                parts.append("".join(shown["text/html"]))
            else:
                parts.append("```text\n" + "".join(shown["text/plain"]).rstrip("\n") + "\n```")
    return "\n\n".join(parts) + "\n"


def kinds_of_outputs(notebook: Notebook) -> list[list[str]]:
    """Return the texts and types of the outputs of each cell, without their numbers."""
    return [
        [
            re.sub(r"[\d.,]+", "#", "".join(output["text"]))
            if "text" in output
            else " ".join(output["data"])
            for output in cell.get("outputs", [])
        ]
        for cell in notebook["cells"]
    ]


def write(notebook: Notebook, path: Path) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    page = page_of(notebook, name=path.stem)
    path.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for path in [FOLDER / name for name in sys.argv[1:]] or NOTEBOOKS:
        write(run_cells(read(path)), path)
