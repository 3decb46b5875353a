"""Envoy's files: deterministic, and with the settings that lost requests when they were missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Le

from midstream_api.steps import ShadowOf as Shadow
from midstream_engine.settings import Settings
from midstream_operator import envoy

SETTINGS = envoy.Envoy(engines=(("house-price-engine", 8080),), memory=512 << 20)
ENGINE = Settings(config=Path("config"), state=Path("state"), cache=Path("cache"))


def cluster() -> dict[str, Any]:
    found: dict[str, Any] = envoy.bootstrap(SETTINGS)["static_resources"]["clusters"][0]
    return found


def host() -> dict[str, Any]:
    found: dict[str, Any] = envoy.routes()["resources"][0]["virtual_hosts"][0]
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def leads_to_engine(path: str) -> bool:
    """Whether the first route that matches leads to an engine."""
    for route in host()["routes"]:
        match = route["match"]
        regex = match.get("safe_regex", {}).get("regex")
        if (
            match.get("path") == path
            or (regex is not None and re.fullmatch(regex, path))
            or ("prefix" in match and path.startswith(match["prefix"]))
        ):
            return "route" in route
    raise AssertionError(f"no route for {path}")


@pytest.mark.parametrize(
    "path",
    [
        *("/infer", "/pipelines", "/pipelines/house-price", "/models", "/livez", "/readyz"),
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/house-price"),
        *("/v2/models/house-price/ready", "/v2/models/house-price/infer"),
        *("/v2/models/house-price/versions/7", "/v2/models/house-price/versions/7/ready"),
        "/v2/models/house-price/versions/7/infer",
    ],
)
def test_data_paths_lead_to_engines(path: str) -> None:
    """Everything that callers may ask gets through."""
    assert leads_to_engine(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/status", "/metrics", "/openapi.json", "/logs", "/infer/", "/infer/x", "/inferx"),
        *("/pipelines/", "/pipelines/a/b", "/pipelines/../status", "//infer", "/STATUS"),
        *("/v2/", "/v2/status", "/v2/health", "/v2/health/other", "/v2/models", "/v2/models/"),
        *("/v2/models/a/status", "/v2/models/a/versions", "/v2/models/a/versions/1/2", "/v20"),
        *("/v2/repository/index", "/v2/models/../../status", "/v2/../metrics"),
    ],
)
def test_nothing_else_leads_to_engines(path: str) -> None:
    """State and metrics are not for callers, and what is not known is nobody's."""
    assert not leads_to_engine(path)


def test_files_are_the_same_for_the_same_settings() -> None:
    """Equal bytes, so that nothing is written and no pod replaced without a reason."""
    assert envoy.dump(envoy.bootstrap(SETTINGS)) == envoy.dump(envoy.bootstrap(SETTINGS))
    assert envoy.dump(envoy.routes()) == envoy.dump(envoy.routes())
    assert json.loads(envoy.dump(envoy.routes())) == envoy.routes()


def test_a_dead_engine_loses_no_request() -> None:
    """Each of these settings alone was measured to lose requests when it is missing."""
    retries, found = host()["retry_policy"], cluster()
    threshold = found["circuit_breakers"]["thresholds"][0]

    assert {"reset", "connect-failure", "refused-stream"} < set(retries["retry_on"].split(","))
    assert 3 <= retries["num_retries"]
    assert ["envoy.retry_host_predicates.previous_hosts"] == [
        each["name"] for each in retries["retry_host_predicate"]
    ]
    assert 100 == threshold["retry_budget"]["budget_percent"]["value"]
    assert "0s" == found["common_lb_config"]["update_merge_window"]
    assert found["ignore_health_on_host_removal"] is True


def test_every_body_that_an_engine_takes_can_be_sent_again() -> None:
    """The buffer for another try is larger than the largest body."""
    assert ENGINE.max_body < host()["request_body_buffer_limit"]


def test_no_request_meets_an_engine_that_closes_an_idle_connection() -> None:
    """Envoy closes first."""
    options = next(iter(cluster()["typed_extension_protocol_options"].values()))
    idle = seconds(options["common_http_protocol_options"]["idle_timeout"])

    assert idle < ENGINE.keep_alive_seconds / 2


def test_a_slow_step_is_not_run_twice() -> None:
    """The silence after which another engine is tried is longer than an engine lets a step run."""
    silent = seconds(host()["retry_policy"]["per_try_idle_timeout"])
    whole = [seconds(each["route"]["timeout"]) for each in host()["routes"] if "route" in each]

    assert 2 * ENGINE.infer_seconds < silent
    assert 3 * silent < min(whole)


def test_a_step_that_waits_for_its_challengers_is_not_run_twice() -> None:
    """However long a manifest lets them take."""
    silent = seconds(host()["retry_policy"]["per_try_idle_timeout"])
    (bound,) = (
        each for each in Shadow.model_fields["timeout_seconds"].metadata if isinstance(each, Le)
    )
    assert bound.le == 300
    assert ENGINE.infer_seconds + bound.le < silent


def test_what_a_request_has_died_of_is_not_sent_to_the_next_engine() -> None:
    """Of answers only 503 is tried again."""
    retries = host()["retry_policy"]
    assert [503] == retries["retriable_status_codes"]
    assert not {"5xx", "gateway-error"} & set(retries["retry_on"].split(","))


def test_answers_set_no_engine_aside() -> None:
    """Whatever their status, and whatever their share."""
    found = cluster()["outlier_detection"]
    for kind in ("consecutive_5xx", "consecutive_gateway_failure", "success_rate"):
        assert found[f"enforcing_{kind}"] == 0
    assert not any(name.startswith("enforcing_failure_percentage") for name in found)


def test_the_heap_is_smaller_than_the_pods_memory() -> None:
    """Envoy turns requests away before the kernel ends it."""
    for memory in (64 << 20, 2 << 30):
        made = envoy.bootstrap(envoy.Envoy(engines=SETTINGS.engines, memory=memory))
        heap = made["overload_manager"]["resource_monitors"][0]["typed_config"][
            "max_heap_size_bytes"
        ]
        assert 0.5 * memory < heap < 0.9 * memory


def test_only_loopback_reaches_the_administration() -> None:
    """It could end Envoy."""
    address = envoy.bootstrap(SETTINGS)["admin"]["address"]["socket_address"]

    assert {"address": "127.0.0.1", "port_value": 29503} == address
