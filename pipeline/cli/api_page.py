"""The page of the documentation about the public names in Python, made from the docstrings."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

_PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")
# Titles of the parts of a docstring.
_PART = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.MULTILINE)
_TITLES = {"Args": "Arguments"}
# An item of such a part begins with a name; what is deeper belongs to it.
_ITEM = re.compile(r"^([\w*]+): ", re.MULTILINE)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def api_page() -> str:
    """Return the page: every name in `__all__` of the four packages, with its signature."""
    return "\n".join(_lines_of_page()) + "\n"


def _lines_of_page() -> Iterator[str]:
    yield from ("# Python reference", "", "Made from the code; `help(NAME)` prints the same.")
    for package in _PACKAGES:
        module = importlib.import_module(package)
        yield from ("", f"## {package}", "", inspect.getdoc(module) or "")
        for name in sorted(module.__all__, key=str.lower):
            if not name.startswith("__"):
                yield from ("", f"### {package}.{name}", "")
                yield from _lines_of_name(getattr(module, name))


def _lines_of_name(value: Any) -> Iterator[str]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    assert isinstance(node, ast.ClassDef | _Function)
    signature = _signature_of_class(node) if isinstance(node, ast.ClassDef) else _signature(node)
    yield from ("```py", signature, "```", "")
    yield from _lines_of_docstring(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        members = [_line_of_member(each) for each in node.body if _is_public(each)]
        if members:
            yield from ("", "Members:", "", *members)


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, _Function) and not node.name.startswith("_")


def _line_of_member(node: Any) -> str:
    kinds = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
    is_property = bool(kinds & {"property", "cached_property"})
    signature = node.name if is_property else _signature(node, is_method=True)
    if is_property and node.returns is not None:
        signature += f": {_type(node.returns)}"
    first = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return f"* `{signature}`" + (f": {' '.join(first.split())}" if first else "")


def _signature_of_class(node: ast.ClassDef) -> str:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return _call(node.name, _parameters(each.args, is_method=True))
    if node.bases and ast.unparse(node.bases[0]) == "Protocol":
        return f"class {node.name}(Protocol)"
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return _call(node.name, [_field(each) for each in fields if "ClassVar" not in _type(each)])


def _field(node: ast.AnnAssign) -> str:
    text = f"{ast.unparse(node.target)}: {_type(node.annotation)}"
    if isinstance(node.value, ast.Call):  # field(…)
        keywords = {each.arg: ast.unparse(each.value) for each in node.value.keywords}
        default = keywords.get("default")
        if "default_factory" in keywords:
            default = f"{keywords['default_factory']}()"
        return text if default is None else f"{text} = {default}"
    return text if node.value is None else f"{text} = {ast.unparse(node.value)}"


def _signature(node: _Function, *, is_method: bool = False) -> str:
    result = "" if node.returns is None else f" -> {_type(node.returns)}"
    parameters = _parameters(node.args, is_method=is_method)
    if is_method:
        return f"{node.name}({', '.join(parameters)}){result}"
    return _call(node.name, parameters) + result


def _parameters(arguments: ast.arguments, *, is_method: bool) -> list[str]:
    """Return the parameters as they are written, of a method without the first."""
    places = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(places) - len(arguments.defaults)) + list(arguments.defaults)
    parameters = [_parameter(*each) for each in zip(places, defaults, strict=True)]
    parameters = parameters[is_method:]
    if arguments.vararg is not None:
        parameters.append("*" + _parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        parameters.append("*")
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return parameters + [_parameter(*each) for each in named]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = "" if argument.annotation is None else f": {_type(argument.annotation)}"
    return argument.arg + kind + ("" if default is None else f" = {ast.unparse(default)}")


def _type(node: ast.expr | ast.AnnAssign) -> str:
    """Return an annotation as text, without the quotes of names that are defined later."""
    return ast.unparse(node).strip("'")


def _call(name: str, parameters: list[str]) -> str:
    one_line = f"{name}({', '.join(parameters)})"
    if len(one_line) <= 80:
        return one_line
    return "\n".join([f"{name}(", *(f"    {each}," for each in parameters), ")"])


def _lines_of_docstring(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring as they are, and its parts as lists."""
    first, *parts = _PART.split(text)
    yield first.strip()
    for title, part in zip(parts[::2], parts[1::2], strict=True):
        body = textwrap.dedent(part.strip("\n"))
        body, _, after = body.partition("\n\n") if title != "Returns" else (body, "", "")
        yield from ("", f"{_TITLES.get(title, title)}:", "")
        names_and_texts = _ITEM.split(body)
        if title in ("Returns", "Yields") or len(names_and_texts) == 1:
            yield " ".join(body.split())
        else:
            for name, meaning in zip(names_and_texts[1::2], names_and_texts[2::2], strict=True):
                yield f"* `{name}`: {' '.join(meaning.split())}"
        if after.strip():
            yield from ("", after.strip())
