"""Pages of the documentation: settings, the table of contents, links, the tree of modules."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from pipeline.cli.api_page import api_page
from pipeline.cli.reference_pages import commands_page, keys_page
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.sections import RunConfig
from trainers.settings import ScoringSettings

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PACKAGES = ("pipeline", "trainers", "catalogs", "attent_select")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
CLUSTER_PAGES = ("laptop", "multi-gpu", "slurm", "kubernetes")
SECTIONS: dict[str, TypeAdapter[Any]] = {
    "cluster": TypeAdapter(ClusterSettings),
    "scoring": TypeAdapter(ScoringSettings),
}


@pytest.mark.parametrize("page", CLUSTER_PAGES)
def test_the_settings_of_a_page_are_accepted(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for section, values in yaml.safe_load(block).items():
            SECTIONS[section].validate_python(values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_whole_configuration_of_a_page_is_accepted(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        values = yaml.safe_load(block)
        if {"run", "selection"} <= values.keys():
            RunConfig.model_validate(values)


def test_the_table_of_contents_has_every_page() -> None:
    listed = re.findall(r"(\S+)\.md", (ROOT / "mkdocs.yml").read_text())
    pages = (path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md"))
    assert sorted(listed) == sorted(map(str, pages))


def documented_keys() -> set[str]:
    """`section.key` of every row in the table of keys of configuration.md."""
    (table,) = re.findall(
        r"## Keys\n(.*?)\n## ", (DOCS / "configuration.md").read_text(), re.DOTALL
    )
    keys = set()
    for row in table.splitlines():
        section = ""
        for name in re.findall(r"`([\w.]+)`", row.partition(" | ")[0]):
            section = name.rpartition(".")[0] or section
            keys.add(f"{section}.{name.rpartition('.')[2]}")
    return keys


@pytest.mark.parametrize("section", ["schedule", "scoring", "training", "streaming", "cluster"])
def test_the_table_of_keys_has_the_settings_of_a_section(section: str) -> None:
    settings: Any = RunConfig.model_fields[section].annotation
    is_plain = is_dataclass(settings)
    names_of_fields = {f.name for f in fields(settings)} if is_plain else {*settings.model_fields}
    documented = (key.split(".") for key in documented_keys())
    assert {names[1] for names in documented if names[0] == section} == names_of_fields


def anchors(page: Path) -> set[str]:
    """The anchors that mkdocs and GitHub make of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def paths_of_the_tree() -> Iterator[str]:
    """Every line of the tree of modules in architecture.md, as a path."""
    (tree,) = re.findall(
        r"## Modules\n\n```\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL
    )
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, description = line.split(maxsplit=1)
        assert description, line
        folders[depth:] = [name.rstrip("/")]
        yield "/".join(folders)


def test_the_tree_names_every_module_once() -> None:
    modules = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    expected = (path.parent if path.name == "__init__.py" else path for path in modules)
    listed = sorted(paths_of_the_tree())
    assert listed == sorted(str(path.relative_to(ROOT)) for path in expected)


def contracts() -> dict[str, list[str]]:
    """The layers of each package that has an import contract, top first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {
        contract["containers"][0]: contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract.get("containers", [""])[0] in PACKAGES
    }


@pytest.mark.parametrize(("package", "layers"), contracts().items(), ids=contracts())
def test_the_layers_of_a_package_are_those_of_its_contract(package: str, layers: list[str]) -> None:
    page = (DOCS / "architecture.md").read_text()
    shown = " → ".join(layer.replace(" | ", " · ").replace(" : ", " · ") for layer in layers)
    assert f"| `{package}` | {shown} |" in page


@pytest.mark.parametrize("page", ["api", "commands", "keys"])
def test_a_page_that_is_made_from_the_code_is_up_to_date(page: str) -> None:
    # After a change of a command, a key or a docstring: python -m pipeline.cli.reference_pages docs
    made = {"api": api_page, "commands": commands_page, "keys": keys_page}[page]()
    assert (DOCS / f"{page}.md").read_text() == made
