"""Wording rules of CONTRIBUTING.md that a pattern can check, for text and for names."""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pipeline.cli.app import app

ROOT = Path(__file__).parent.parent
FOLDERS = ("attent_select", "catalogs", "trainers", "pipeline", "benchmarks", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
YAML = sorted((ROOT / "examples").glob("*.yaml"))

# What a text must not say, and what to write instead.
PHRASES = {
    r"\bso many\b": "this many, the number of",
    r"\banew\b": "again, from scratch",
    r"\bour fault\b": "internal error",
    r"(?<!\bthere )\b(is|are|was|were) no (?!longer\b|more\b|less\b|[a-z]+er\b)[a-z]+": "is not a",
    r"\bbut for\b": "except",
    r"\b(nobody|whoever|whosoever|whomever)\b": "a subject: no one, a user, the caller",
    r"\bno matter\b": "not required, regardless of",
    r"\b(go|goes|going|went|gone) on\b": "continue, resume",
    r"\bof (its|our|their|your) own\b(?! (?!and |for |in |on |to |with )[a-z])": "a separate X",
    r"\bin vain\b": "without use",
    r"\blets? go of\b": "release",
    r"\binterpreter('s)? lock\b": "GIL",
    r"\bwish(es|ed)?\b": "request, expected",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bprocess(es)? apart\b": "separate process, subprocess",
    r"\b(of|with) like (length|size)s?\b": "of similar length",
    r"\b(counts?|does|do|exists?|matters?) no more\b": "no longer",
    r"\bwithout a word\b": "without an error",
    r"\bnever happened\b": "is uncommitted and ignored",
    r"\bpatiently\b": "with retries",
    r"\btells? apart\b": "distinguish",
    r"\bfor ever\b": "forever",
}
# Verbs in the third person that a docstring must not start with: it is an imperative or a noun.
THIRD_PERSON = re.compile(
    r"Adds|Applies|Asks|Asserts|Builds|Calculates|Calls|Checks|Collects|Collates|"
    r"Combines|Compares|Computes|Connects|Converts|Creates|Decides|Decodes|Deletes|"
    r"Does|Draws|Ends|Fails|Feeds|Fetches|Fills|Finds|Fits|Flattens|Gathers|Gets|"
    r"Gives|Goes|Hands|Has|Ingests|Is|Joins|Keeps|Leaves|Lets|Loads|Looks|Makes|"
    r"Measures|Merges|Opens|Parses|Picks|Prepares|Prints|Publishes|Puts|Raises|"
    r"Refuses|Registers|Releases|Removes|Renders|Repeats|Replaces|Resumes|Returns|"
    r"Runs|Saves|Says|Selects|Sends|Sorts|Starts|Stops|Takes|Tells|Tokenises|"
    r"Tokenizes|Trains|Tries|Turns|Uploads|Uses|Waits|Walks|Watches|Writes|Yields"
)
# The same, but a noun before one of these words: "Counts of the stream".
ALSO_NOUNS = re.compile(
    r"Changes|Copies|Counts|Cuts|Estimates|Holds|Lists|Maps|Marks|Moves|Names|"
    r"Notes|Packs|Pads|Plans|Reads|Records|Reports|Scores|Seeds|Sets|Shows|Splits|"
    r"Stores|Streams|Tests"
)
AFTER_NOUNS = re.compile(r"of|per|and|or|by|with|from|for|in|as|that|which|at|to:")
# Clauses without their subject, or for a word that exists.
FRAGMENTS = re.compile(r"(Of|That|From where|To where|As many|In how many|By which|With which)\b")
# Verbs that end like a participle, and folders of a run (`catalogs/layout.py`).
NOT_PARTICIPLES = {
    "seed",
    "need",
    "feed",
    "embed",
    "exceed",
    "proceed",
    "observed",
    "rescored",
    "merged",
}
IRREGULAR = re.compile(r"told|said|found|given|drawn|made|kept|shown|known|written|taken|chosen")
VAGUE = {"found", "wanted", "told", "asked", "said", "wished", "lacking", "given", "there"}


@functools.lru_cache(maxsize=1)
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, comments and strings of several words of a module, with their lines."""
    for node in nodes(path):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    part.value if isinstance(part, ast.Constant) else "X" for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The paragraphs of a page or of a YAML file's comments, with their lines; no code."""
    text = path.read_text()
    if path.suffix == ".yaml":
        text = "\n".join(line.partition("#")[2] for line in text.splitlines())
    else:
        text = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), text, flags=re.DOTALL)
    line = 1
    for paragraph in text.split("\n\n"):
        yield line, paragraph
        line += paragraph.count("\n") + 2


def phrases(path: Path) -> list[str]:
    """`FILE:LINE phrase → what to write` for each forbidden phrase."""
    places = texts(path) if path.suffix == ".py" else prose(path)
    return sorted(
        {
            f"{path.relative_to(ROOT)}:{line} {match[0]!r} → {instead}"
            for line, text in places
            for pattern, instead in PHRASES.items()
            for match in re.finditer(pattern, re.sub(r"\s+", " ", text), re.IGNORECASE)
        }
    )


def is_imperative_or_noun(text: str) -> bool:
    first, second = [*text.split(), "", ""][:2]
    is_verb = THIRD_PERSON.fullmatch(first) or (
        ALSO_NOUNS.fullmatch(first) and not AFTER_NOUNS.fullmatch(second)
    )
    return not is_verb and not FRAGMENTS.match(text)


def first_lines(path: Path) -> list[str]:
    """Docstrings that start with a verb in the third person or with a fragment."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    lines = []
    for node in nodes(path):
        if not isinstance(node, kinds) or not (text := ast.get_docstring(node)):
            continue
        text = re.sub(r"^`?[\w ]+`?: ", "", text)
        if not is_imperative_or_noun(text):
            line = getattr(node, "lineno", 1)
            lines.append(f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]!r}")
    return lines


def participles(path: Path) -> list[str]:
    """Functions named by a participle alone: neither a verb nor what they return."""
    lines = []
    for node in nodes(path):
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            continue
        name = node.name.strip("_")
        is_participle = re.fullmatch("[a-z]+ed", name) and name not in NOT_PARTICIPLES
        if is_participle or IRREGULAR.fullmatch(name):
            lines.append(f"{path.relative_to(ROOT)}:{node.lineno} def {node.name}")
    return lines


def vague_names(path: Path) -> list[str]:
    """Variables and parameters that are named by how they came about."""
    lines = []
    for node in nodes(path):
        is_stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if is_stored else node.arg if isinstance(node, ast.arg) else ""
        if name in VAGUE:
            lines.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    return lines


def helps() -> Iterator[tuple[str, str]]:
    """(command or option, help text) of the whole command line."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield name, command.help or ""
        for parameter in command.params:
            yield f"{name} {parameter.opts[0]}", getattr(parameter, "help", None) or ""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, *YAML], ids=relative)
def test_a_text_uses_the_standard_words(path: Path) -> None:
    assert phrases(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_source_uses_the_standard_words_and_names(path: Path) -> None:
    assert phrases(path) == []
    assert first_lines(path) == [], "a docstring starts with an imperative or a noun"
    assert participles(path) == [], "a function is named by a verb or by what it returns"
    assert vague_names(path) == [], "a variable is named by what it holds"


@pytest.mark.parametrize(("name", "text"), helps(), ids=lambda value: str(value)[:40])
def test_a_help_text_is_a_sentence_or_a_noun_phrase(name: str, text: str) -> None:
    assert text, f"{name} has no help text"
    assert re.match(r"[A-Z`]|\w*\d", text), f"{name}: {text}"
    assert is_imperative_or_noun(text), f"{name}: {text}"


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("As many as so many units.", True),
        ("x is no run", True),
        ("there is no run", False),
        ("it is no longer valid", False),
        ("the run goes on", True),
        ("a process of its own.", True),
        ("one of its own threads", False),
    ],
)
def test_a_phrase_is_found_and_plain_english_is_not(*, text: str, is_found: bool) -> None:
    assert any(re.search(pattern, text) for pattern in PHRASES) is is_found


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("Return the rows.", True),
        ("Counts of the stream.", True),
        ("Counts the rows.", False),
        ("Returns the rows.", False),
        ("Of the random draw.", False),
    ],
)
def test_a_first_line_is_an_imperative_or_a_noun(*, text: str, is_plain: bool) -> None:
    assert is_imperative_or_noun(text) is is_plain
