"""What a server is told: where it listens, what it serves, and what it refuses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tastemaker.errors import ConfigError
from tastemaker.models.base import ModelConfig, parse_config, settings

__all__ = ["ServeSettings", "read_serve_settings"]


@settings
class ServeSettings(ModelConfig):
    """Settings of the service. Limits are per request unless they say otherwise."""

    host: str = "127.0.0.1"  # address to listen on; only this machine by default
    port: int = Field(default=8000, ge=0, le=65_535)  # 0 takes a free one
    store: str = "sqlite:///tastemaker-events.db"  # sqlite:///FILE or postgresql://...
    models: dict[str, str] = Field(default_factory=dict)  # name -> run folder
    default: str | None = None  # name that answers when a request names none; None = the first
    traffic: dict[str, float] = Field(default_factory=dict)  # name -> share of users, by hash
    golden: str | None = None  # JSON file of a request that a new run must answer as it says
    log_served: bool = True  # whether answers are kept in the store
    device: str = "auto"  # where models answer
    api_keys: tuple[str, ...] = ()  # any of them is needed in the header x-api-key; none = open
    cors_origins: tuple[str, ...] = ()  # pages of these origins may ask from a browser
    max_body_bytes: int = Field(default=1 << 20, ge=1_024)  # of a request
    max_k: int = Field(default=1_000, ge=1)  # longest list
    max_history: int = Field(default=10_000, ge=1)  # events given with a request
    max_candidates: int = Field(default=10_000, ge=1)  # items of /score, ids of a filter
    max_batch: int = Field(default=1_000, ge=1)  # events of /events
    request_seconds: float = Field(default=2.0, gt=0)  # after which an answer is too late
    queue_size: int = Field(default=256, ge=1)  # requests that may wait for a model
    batch_rows: int = Field(default=64, ge=1)  # requests answered in one call of a model
    ann_above: int = Field(default=100_000, ge=0)  # items above which faiss searches; 0 = never


def read_serve_settings(path: Path | str, **given: Any) -> ServeSettings:
    """Settings of a TOML file; values that are given win.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such settings file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error})") from None
    try:
        return checked({**values, **given})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def checked(values: Mapping[str, Any]) -> ServeSettings:
    """Settings whose parts fit together.

    Raises:
        ConfigError: for an unknown setting, a value out of range, or a name that is not served.
    """
    found = parse_config(ServeSettings, values)
    for setting, names in (
        ("default", [found.default] if found.default else []),
        ("traffic", list(found.traffic)),
    ):
        for name in names:
            if found.models and name not in found.models:
                raise ConfigError(
                    f"setting {setting!r}: {name!r} is not among the models served: "
                    f"{', '.join(found.models)}"
                )
    shares = found.traffic.values()
    if found.traffic and (min(shares) < 0 or abs(sum(shares) - 1) > 1e-6):
        raise ConfigError(
            f"setting 'traffic': shares are {list(shares)}; they must be positive and sum to 1"
        )
    return found
