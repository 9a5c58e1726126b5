"""The command line: arguments in, exit codes out."""

import os
import sys

# Variables that ask for colours in pipes, too.
_FORCING = ("FORCE_COLOR", "PY_COLORS")


def main() -> None:
    """Run the command that the arguments name; a wrong argument is one line on stderr."""
    _decide_on_colors()
    from pipeline.cli.app import app

    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # typer's own copy of click has no public name for its errors.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        if not sys.argv[1:] or context is None:
            error.show()  # type: ignore[attr-defined]  # the help
        else:
            message = " ".join(error.format_message().split()).rstrip(".")
            end = "" if message.endswith("?") else "."
            sys.stderr.write(f"attent: {message}{end} See `{context.command_path} --help`\n")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _decide_on_colors() -> None:
    """Forbid colours with NO_COLOR, and in pipes unless a variable asks for them."""
    # Typer prints them whenever one of these, or GITHUB_ACTIONS, is set.
    if os.environ.get("NO_COLOR"):
        for name in _FORCING:
            os.environ.pop(name, None)
    is_forced = any(map(os.environ.get, _FORCING))
    if os.environ.get("NO_COLOR") or not (is_forced or sys.stdout.isatty()):
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
