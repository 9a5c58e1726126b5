"""Rules of the house that no linter checks: sizes, names, docstrings, import cycles."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
MAX_MODULES = 14


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def quantile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * len(values))]


def test_the_rules_are_applied_to_every_package() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_lives_there(path: Path) -> None:
    assert num_lines(path) <= 400
    assert path.stem not in FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(path.read_text())), "the first lines say what lives here"
    too_long = {f.name: n for f in functions(path) if (n := lines_without_docstring(f)) > 40}
    assert not too_long


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_test_module_is_short_enough_to_read(path: Path) -> None:
    assert num_lines(path) <= 600


def test_the_median_module_has_at_most_150_lines() -> None:
    assert quantile([num_lines(path) for path in MODULES], 0.5) <= 150


def test_nine_of_ten_functions_have_at_most_25_lines() -> None:
    sizes = [lines_without_docstring(f) for path in MODULES for f in functions(path)]
    assert quantile(sizes, 0.9) <= 25


def test_a_folder_has_at_most_14_modules() -> None:
    sizes = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {folder: n for folder, n in sizes.items() if n > MAX_MODULES} == {}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    cycles = [
        chain
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if (chain := graph.find_shortest_chain(importer=imported, imported=module))
    ]
    assert cycles == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_unpickles(path: Path) -> None:
    text = path.read_text()
    for call in ("pickle.load", "cloudpickle.load", "np.load(", "joblib.load"):
        assert call not in text
    assert text.count("torch.load(") == text.count("weights_only=True")
