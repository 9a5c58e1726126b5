"""The command line: arguments in, exit codes out."""


def main() -> None:
    """Run the command that the arguments name."""
    from pipeline.cli.app import app

    app()
