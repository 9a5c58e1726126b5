"""Commands made of functions: the options that every command has."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from attent_select.errors import InputError
from pipeline.cli.output.answer import answer
from pipeline.cli.output.logs import LogOptions

P = ParamSpec("P")
R = TypeVar("R")

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print debug messages as well.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
LogFile = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Also append all log messages to this file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def command(
    show: Callable[[R], None],
    *,
    to_json: Callable[[R], Any] = lambda result: result,
    exit_code: Callable[[R], int] = lambda _: 0,
    then: Callable[[R], None] | None = None,
) -> Callable[[Callable[P, R]], Callable[..., None]]:
    """Make a command of a function that returns the command's result.

    The command also takes `--json` and the options for log messages. A function that has the
    argument `as_json` is told whether the result is printed as JSON.

    Args:
        show: prints the result for people.
        to_json: what `--json` prints of a result; dataclasses are converted afterwards.
        exit_code: the exit code for a result.
        then: runs with the result after it was printed, as a server does.
    """

    def decorate(function: Callable[P, R]) -> Callable[..., None]:
        signature = inspect.signature(function)

        def run(
            *,
            context: typer.Context,
            as_json: bool,
            verbose: bool,
            quiet: bool,
            log_file: Path | None,
            **arguments: Any,
        ) -> None:
            if "as_json" in signature.parameters:
                arguments["as_json"] = as_json
            log = (context.obj or LogOptions()) | LogOptions(verbose, quiet, log_file)

            def work() -> R:
                _check_call(arguments)
                return function(**arguments)  # type: ignore[call-arg]  # what typer parsed

            result = answer(work, as_json=as_json, show=show, to_json=to_json, log=log)
            if then is not None:
                answer(partial(then, result), as_json=False, show=_show_nothing, log=log)
            if code := exit_code(result):
                raise typer.Exit(code)

        own = [p for name, p in signature.parameters.items() if name != "as_json"]
        update_wrapper(run, function)
        _set_parameters(run, [*own, *_OUTPUT_OPTIONS])
        return run

    return decorate


def _set_parameters(function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Give a function the parameters that typer reads."""
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    vars(function)["__signature__"] = inspect.Signature(parameters)


def _show_nothing(_: object) -> None:
    pass


def _check_call(arguments: Mapping[str, Any]) -> None:
    """Check the variables of a launcher, and that arguments are text: the system passes any bytes.

    Raises:
        InputError: a variable is wrong, or an argument is not UTF-8.
    """
    from trainers.ranks import check_environment  # late: it imports polars, and help needs none

    check_environment()
    for value in arguments.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"the argument {text!a} is not valid UTF-8: expected text"
                    ) from error


def _option(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


_OUTPUT_OPTIONS = (
    _option("as_json", Json, False),
    _option("verbose", Verbose, False),
    _option("quiet", Quiet, False),
    _option("log_file", LogFile, None),
    _option("context", typer.Context),
)
