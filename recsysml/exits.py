"""How a command ends: its exit code, and one line for an error. Only the standard library and Typer at the top."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer


def run_app(app: typer.Typer, words: Sequence[str]) -> Any:
    """What the command returns. Raises what it raises, and ConfigError for a word that is no UTF-8."""
    from recsysml.errors import ConfigError

    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{word!a}: it is not UTF-8 text; give it in UTF-8, or set LANG=C.UTF-8.") from None
    try:
        return app(args=list(words), prog_name="recsysml", standalone_mode=False)
    except SystemExit as stop:  # click ends a program whose reader has gone with 1
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise


def _where_to_look(error: Any) -> str:
    """`. See: recsysml generate -h.` for a word that the parser did not take."""
    context = getattr(error, "ctx", None)
    return f". See: {context.command_path} -h." if context is not None else "."


def drop_output() -> None:
    """What is still held for standard output goes nowhere, or Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guard(command: Callable[[], Any], verbose: bool) -> int:
    """The exit code of a command; an error is said in one line on standard error, after its traceback if `verbose`."""
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if verbose:
            import traceback

            traceback.print_exc()
        if hasattr(error, "format_message"):  # Typer's own: an unknown command or option
            if not error.format_message():
                return 2  # it has printed the help
            text, code = error.format_message().rstrip(".") + _where_to_look(error), 2
        elif hasattr(error, "exit_code"):
            text, code = str(error), int(error.exit_code)
        else:
            text = f"{type(error).__name__}: {error}" + ("" if verbose else " (-v shows where)")
            code = 1
        print("error: " + " ".join(text.split()), file=sys.stderr)
        return code
