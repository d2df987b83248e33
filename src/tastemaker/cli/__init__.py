"""The command line: one thin function a command; everything is imported where it is used.

Results go to stdout, messages and progress to stderr. With `--json` the last line on stdout is one
JSON value. Exit codes: 0 done, 1 a fault of the program, 2 a fault of the input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tastemaker import __version__
from tastemaker.cli.about import doctor, models
from tastemaker.cli.asking import compare, evaluate, recommend, report, similar
from tastemaker.cli.data import data_app
from tastemaker.cli.options import command_group
from tastemaker.cli.serving import serve
from tastemaker.cli.training import train, tune
from tastemaker.errors import TastemakerError

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = command_group("One system for recommendation: a log in, honest recommendations out.")
app.add_typer(data_app, name="data")
for command in (models, train, evaluate, recommend, similar, compare, tune, report, serve, doctor):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and leave with its exit code."""
    debugging = os.environ.get("TASTEMAKER_DEBUG", "") not in ("", "0")
    try:
        code = app(standalone_mode=False)
    except (TastemakerError, FileExistsError, PermissionError, typer.TyperException) as error:
        if debugging:
            raise
        fault = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _leave(2, f"error: {' '.join(fault.split())}")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe left: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(0)
    except Exception as error:
        if debugging:
            raise
        _leave(
            1,
            f"internal error: {type(error).__name__}: {error}; set TASTEMAKER_DEBUG=1 for the "
            "traceback, and please report it",
        )
    if code == _INTERRUPTED:  # typer, too, makes this of a KeyboardInterrupt
        _leave(_INTERRUPTED, "interrupted; the same command goes on where it stood")
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: int, message: str = "") -> None:
    if message:
        typer.echo(message, err=True)
    sys.exit(code)
