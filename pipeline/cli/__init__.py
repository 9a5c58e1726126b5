"""The command line: arguments in, exit codes out."""

import sys


def main() -> None:
    """Run the command that the arguments name; a wrong argument is one line on stderr."""
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
