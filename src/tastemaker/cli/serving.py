"""The command that serves runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tastemaker.cli.options import Device, Quiet
from tastemaker.console import is_quiet, say, set_quiet
from tastemaker.waiting import sleep_at_once

__all__ = ["serve"]


def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]RUN", help="Run folders; the first one is the default."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one [8000].")] = None,
    store: Annotated[
        str | None, typer.Option(help="sqlite:///FILE or postgresql://... [a file here].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve finished runs over HTTP, with live events and a page."""
    sleep_at_once()
    from tastemaker.serving.server import configured, run_server

    set_quiet(quiet or is_quiet())
    given: dict[str, Any] = {"host": host, "port": port, "store": store}
    if device != "auto":
        given["device"] = device
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = configured(runs or [], config, chosen)
    run_server(settings, lambda address: say(f"serving at {address} (documentation: /docs)"))
