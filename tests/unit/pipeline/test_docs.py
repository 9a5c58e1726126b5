"""What the pages about clusters show: settings that are accepted, commands that exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from pipeline.cli.app import app
from pipeline.config.sections import ClusterSettings, ScoringSettings

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("scoring", "laptop", "multi-gpu", "slurm", "kubernetes")
SECTIONS: dict[str, type[BaseModel]] = {"cluster": ClusterSettings, "scoring": ScoringSettings}


@pytest.mark.parametrize("page", PAGES[1:])
def test_the_settings_of_a_page_are_accepted(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for section, values in yaml.safe_load(block).items():
            SECTIONS[section].model_validate(values)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist_with_their_options(page: str) -> None:
    commands: Any = typer.main.get_command(app)
    lines = re.findall(r"^\$ attent (.*)$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)
        known = {option for param in commands.commands[name].params for option in param.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_every_page_stands_in_the_table_of_contents() -> None:
    shown = set(re.findall(r"(\S+)\.md", (DOCS.parent / "mkdocs.yml").read_text()))
    assert {path.stem for path in DOCS.glob("*.md")} == shown
