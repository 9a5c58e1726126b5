"""Check that a script can be imported again: every worker process of a local cluster does so."""

import ast
import inspect
import sys
from pathlib import Path
from types import FrameType

from attent_select.errors import InputError

GUARD = '`if __name__ == "__main__":`'


def check_main_guard() -> None:
    """Check that the caller's script starts the cluster only if it is the main program.

    Raises:
        InputError: the workers would run the call again instead of working.
    """
    frame = _frame_of_script(inspect.currentframe())
    if frame is None:
        return
    path = Path(frame.f_code.co_filename)
    try:
        script = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # not a file of Python source
        return
    if not any(_is_guard(node) and _has_line(node, frame.f_lineno) for node in script.body):
        raise InputError(
            f"{path}, line {frame.f_lineno}: every worker process imports this script and would run"
            f" the call again. Put it under {GUARD}"
        )


def _frame_of_script(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the main program, if worker processes import it."""
    main = sys.modules["__main__"]
    while frame is not None and frame.f_globals is not vars(main):
        frame = frame.f_back
    # The outermost one: the script itself, not a function in it.
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame if getattr(main, "__file__", None) is not None else None


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test)
    )


def _has_line(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)
