"""The API keeps what its OpenAPI document promises, whatever is sent."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tastemaker.serving.app import create_app
from tastemaker.serving.engine import Engine
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.service import Service
from tastemaker.serving.settings import ServeSettings
from tastemaker.serving.store import open_store


@pytest.fixture(scope="module")
def api(loaded, tmp_path_factory):
    chosen = ServeSettings(device="cpu", log_served=False)
    folder = tmp_path_factory.mktemp("openapi")
    live = LiveHistories(open_store(f"sqlite:///{folder}/events.db"))
    service = Service(Engine(loaded, chosen), live, chosen)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_as_documented(api, mode):
    for found in api.get_all_operations():
        operation = found.ok()
        if mode is schemathesis.GenerationMode.NEGATIVE and not (
            operation.body or operation.query or operation.path_parameters
        ):
            continue  # there is nothing to be wrong

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            # Well-formed requests may name models, items and attributes that are not there.
            case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])

        check()
