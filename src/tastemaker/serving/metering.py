"""Numbers for Prometheus."""

from __future__ import annotations

from typing import Any

from tastemaker.extras import require
from tastemaker.serving.engine import Engine
from tastemaker.serving.journal import Journal
from tastemaker.serving.memory import LiveHistories

__all__ = ["Meters"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Meters:
    """Counters of the service, in a registry of their own."""

    def __init__(self, engine: Engine, live: LiveHistories, journal: Journal | None) -> None:
        self._client: Any = require("prometheus_client", extra="serve", purpose="the service")
        self.registry = self._client.CollectorRegistry()
        self.requests = self._client.Counter(
            "tastemaker_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self.seconds = self._client.Histogram(
            "tastemaker_request_seconds",
            "Time to answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answers = self._client.Counter(
            "tastemaker_answers", "Lists given", ["model", "run"], registry=self.registry
        )
        self.events = self._client.Counter(
            "tastemaker_events", "Events", ["outcome"], registry=self.registry
        )
        self.exchanges = self._client.Counter(
            "tastemaker_exchanges", "Runs exchanged", ["outcome"], registry=self.registry
        )
        self._waiting = self._client.Gauge(
            "tastemaker_waiting", "Requests in the queue", ["model"], registry=self.registry
        )
        for name in engine.names:
            self._waiting.labels(name).set_function(lambda name=name: engine.waiting(name))
        down = self._client.Gauge(
            "tastemaker_store_down", "Whether the store was down", registry=self.registry
        )
        down.set_function(lambda: float(live.is_waiting))
        if journal is not None:
            dropped = self._client.Gauge(
                "tastemaker_answers_dropped",
                "Answers not kept because the store was down for too long",
                registry=self.registry,
            )
            dropped.set_function(lambda: journal.dropped)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """All numbers as Prometheus reads them, and their content type."""
        return self._client.generate_latest(self.registry), self._client.CONTENT_TYPE_LATEST
