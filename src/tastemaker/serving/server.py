"""From settings to a listening server."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.console import say
from tastemaker.errors import ConfigError
from tastemaker.extras import require
from tastemaker.serving.engine import Engine
from tastemaker.serving.loaded import LoadedRun
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.settings import ServeSettings, checked, read_serve_settings
from tastemaker.serving.store import open_store

__all__ = ["configured", "run_server"]


def configured(runs: Sequence[str], config: Path | None, given: Mapping[str, Any]) -> ServeSettings:
    """Settings from a file and the command line, which wins.

    Args:
        runs: `NAME=FOLDER` or `FOLDER`, whose last part is then the name.
        config: TOML file.
        given: single settings.

    Raises:
        ConfigError: for two runs of one name, or none.
    """
    models: dict[str, str] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        folder, name = (folder, name) if equals else (text, Path(text).resolve().name)
        if name in models:
            raise ConfigError(f"two runs are called {name!r}; name them: other={folder}")
        models[name] = folder
    values = {**given, "models": models} if models else dict(given)
    settings = checked(values) if config is None else read_serve_settings(config, **values)
    if not settings.models:
        raise ConfigError(
            "there is nothing to serve; name at least one run: tastemaker serve runs/mine"
        )
    return settings


def run_server(settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Load, listen, serve until interrupted.

    Args:
        settings: of the service.
        announce: called with the address once requests are answered.

    Raises:
        MissingExtraError: without the extra `serve`.
        ConfigError: when the address cannot be listened on.
    """
    uvicorn = require("uvicorn", extra="serve", purpose="tastemaker serve")
    require("fastapi", extra="serve", purpose="tastemaker serve")
    from tastemaker.serving.app import create_app
    from tastemaker.serving.service import Service

    listener = _listen(settings.host, settings.port)
    runs = {}
    for name, folder in settings.models.items():
        say(f"loading {name} from {folder}")
        runs[name] = LoadedRun.open(
            name, folder, device=settings.device, ann_above=settings.ann_above
        )
    live = LiveHistories(open_store(settings.store), limit=settings.max_history)
    app = create_app(Service(Engine(runs, settings), live, settings))
    host, port = listener.getsockname()[:2]
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=30)
    )
    gc.collect()
    gc.freeze()  # what is loaded stays, so that collections need not walk through it
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port"
        ) from None
    listener.listen(1024)
    return listener
