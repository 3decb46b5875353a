"""Envoy's files for the load balancer of one Pipeline: `bootstrap.json`, read once, and `dynamic/rds.json`, watched.

Pure, and deterministic: equal settings give equal bytes. **Guarantee** (`tests/engine/test_envoy.py`, with the real
Envoy): a request whose engine dies before it answered is answered by another one; nothing but the data paths gets
through; what Envoy itself refuses has the form of an engine's errors. Envoy may therefore send a request to two
engines: inference changes nothing there.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from midstream_api import names, version
from midstream_operator.observed import Object

FOLDER = "/etc/engine-lb"
"""Where the files are. The kubelet changes them by renaming `..data` right in this folder, so this one is watched."""

ROUTES_FILE = "dynamic/rds.json"

ADMIN_PORT = 29503
"""On loopback only."""

CLUSTER = "engine"
_STATS = "engine_lb"
_ROUTES = "engine_routes"

_PATHS = ("/infer", "/livez", "/models", "/pipelines", "/readyz", "/v2")
"""Data paths of an engine. Its `/status` and `/metrics` are not for callers."""

_PATTERNS = (
    "/pipelines/[^/]+",
    # Open Inference Protocol
    "/v2/health/(live|ready)",
    "/v2/models/[^/]+(/versions/[^/]+)?(/(ready|infer))?",
)
"""More of them."""

_NOTHING_THERE = (
    "there are POST /infer, POST /pipelines/{name}, GET /livez, /models, /pipelines, /readyz, "
    "and the Open Inference Protocol: GET /v2, /v2/health/ready, POST /v2/models/{name}/infer"
)

_MAX_BODY = (16 << 20) + (64 << 10)
"""Bytes of a request body that are kept for another try: more than an engine takes."""

_SILENT_SECONDS = 345
"""An engine that says nothing for so long hangs, and another one is tried. Longer than an engine lets a request wait
for a model (30 s) and the slowest step run: one that waits for the challengers in its shadow, for 300 s at most.
Engines that hang are ended earlier, by their liveness probe, and lost machines are noticed by `_KEEP_ALIVE`."""

_REQUEST_SECONDS = 1080
"""All tries of one request together."""

_KEEP_ALIVE = {"keepalive_time": 10, "keepalive_interval": 5, "keepalive_probes": 3}
"""Of a connection to an engine, in seconds: a machine that is gone says nothing, and resets nothing."""

_IDLE_SECONDS = 30
"""Of a connection to an engine. Shorter than the engine's own 75 s, so that no request meets its closing."""

_CONNECTIONS = 10_000

_HEAP = 0.85
"""Part of the pod's memory that Envoy's heap may take; the launcher and the code need the rest."""

_REASONS = {
    400: "InvalidHTTP",
    403: "InvalidHTTP",
    404: "NotFound",
    408: "TooSlow",
    413: "BodyTooLarge",
    431: "HeadTooLarge",
    503: "NotReady",
    504: "EngineTimeout",
}
"""Of what Envoy answers itself."""


@dataclass(frozen=True, slots=True)
class Envoy:
    """What differs between two load balancers."""

    engines: tuple[tuple[str, int], ...]
    """Host names and ports; every address that a name has is an engine."""
    memory: int
    """Bytes that the pod may use."""
    folder: str = FOLDER
    host: str = "0.0.0.0"  # noqa: S104 - a pod's callers come from elsewhere
    port: int = names.ENGINE_LB_PORT
    admin_port: int = ADMIN_PORT


def dump(value: Object) -> str:
    """Give the text of a file: sorted, so that equal content is equal text."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def bootstrap(settings: Envoy) -> Object:
    """Make what Envoy reads when it starts: listener, cluster, limits."""
    return {
        "node": {"id": "engine-lb", "cluster": "engine-lb"},
        "admin": {"address": _address("127.0.0.1", settings.admin_port)},
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": prefix}
                        for prefix in (
                            f"cluster.{CLUSTER}.",
                            f"http.{_STATS}.",
                            "listener.",
                            "listener_manager.",
                            "server.",
                            "overload.",
                        )
                    ]
                }
            }
        },
        "overload_manager": _overload(int(settings.memory * _HEAP)),
        "static_resources": {
            "listeners": [_listener(settings)],
            "clusters": [_cluster(settings)],
        },
    }


def routes() -> Object:
    """Make the routes, and the version by which they are recognised once Envoy has applied them."""
    host: Object = {
        "name": CLUSTER,
        "domains": ["*"],
        "request_body_buffer_limit": _MAX_BODY,
        "retry_policy": _retries(),
        "routes": [
            *(_route({"path": path}) for path in _PATHS),
            *(_route({"safe_regex": {"regex": regex}}) for regex in _PATTERNS),
            {
                "match": {"prefix": "/"},
                "direct_response": {"status": 404, "body": {"inline_string": _NOTHING_THERE}},
            },
        ],
    }
    resource: Object = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": _ROUTES,
        "validate_clusters": True,
        "virtual_hosts": [host],
    }
    return {
        "version_info": hashlib.sha256(version.canonical(resource)).hexdigest()[:16],
        "resources": [resource],
    }


def _route(match: Object) -> Object:
    return {"match": match, "route": {"cluster": CLUSTER, "timeout": f"{_REQUEST_SECONDS}s"}}


def _retries() -> Object:
    # On another engine wherever there is one. A budget, fewer tries, or no memory of the hosts tried before: each alone
    # loses requests when an engine is killed. Of answers only 503 is tried again: rows of which a Python model has died
    # (502), or on which it hangs (504), would do the same to the next one.
    return {
        "retry_on": "reset,connect-failure,refused-stream,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 5,
        "per_try_idle_timeout": f"{_SILENT_SECONDS}s",
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
        "retry_host_predicate": [
            _extension(
                "envoy.retry_host_predicates.previous_hosts",
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        "host_selection_retry_max_attempts": 30,
    }


def _listener(settings: Envoy) -> Object:
    return {
        "name": "engine_lb",
        "address": _address(settings.host, settings.port),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "drain_type": "DEFAULT",
        "filter_chains": [
            {
                "filters": [
                    _extension(
                        "envoy.filters.network.http_connection_manager",
                        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        **_http(settings),
                    )
                ]
            }
        ],
    }


def _http(settings: Envoy) -> Object:
    return {
        "stat_prefix": _STATS,
        "codec_type": "AUTO",
        "generate_request_id": False,
        "use_remote_address": True,
        # A caller must not set time-outs and tries, and most have addresses that Envoy would trust.
        "early_header_mutation_extensions": [
            _extension(
                "envoy.http.early_header_mutation.header_mutation",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[{"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}],
            )
        ],
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "drain_timeout": "5s",
        "stream_idle_timeout": f"{_REQUEST_SECONDS + 10}s",
        "request_headers_timeout": "10s",
        "common_http_protocol_options": {"idle_timeout": "600s"},
        "local_reply_config": _refusals(),
        "rds": {
            "route_config_name": _ROUTES,
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": f"{settings.folder}/{ROUTES_FILE}",
                    "watched_directory": {"path": settings.folder},
                },
            },
        },
        "http_filters": [
            _extension(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            )
        ],
    }


def _refusals() -> Object:
    """Give what Envoy answers itself the form of an engine's errors: `{"error": …, "reason": …}`."""
    return {
        "mappers": [
            {
                "filter": {
                    "status_code_filter": {
                        "comparison": {
                            "op": "EQ",
                            "value": {
                                "default_value": status,
                                "runtime_key": f"engine_lb.refusal_{status}",
                            },
                        }
                    }
                },
                "body_format_override": _refusal(reason, _error(status)),
                **({"headers_to_add": [_header("retry-after", "1")]} if status == 503 else {}),
            }
            for status, reason in _REASONS.items()
        ],
        "body_format": _refusal("LoadBalancerError", "%LOCAL_REPLY_BODY%"),
    }


def _error(status: int) -> str:
    if status == 404:
        return "there is nothing at '%REQ(:PATH):100%'; %LOCAL_REPLY_BODY%"
    if status == 503:
        return "no engine answers (%RESPONSE_CODE_DETAILS%); try again in a second"
    if status == 504:
        return f"no engine answered within {_REQUEST_SECONDS} s"
    return "%LOCAL_REPLY_BODY%"


def _refusal(reason: str, error: str) -> Object:
    return {"json_format": {"error": error, "reason": reason}}


def _cluster(settings: Envoy) -> Object:
    return {
        "name": CLUSTER,
        "cluster_type": _extension(
            "envoy.clusters.dns",
            "envoy.extensions.clusters.dns.v3.DnsCluster",
            dns_lookup_family="V4_ONLY",
            dns_refresh_rate="1s",
            respect_dns_ttl=False,
            all_addresses_in_single_endpoint=False,
            # The resolver would keep an answer for as long as its TTL says, whatever the refresh rate.
            typed_dns_resolver_config=_extension(
                "envoy.network.dns_resolver.cares",
                "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                qcache_max_ttl=0,
            ),
        ),
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(host, port)}}
                        for host, port in settings.engines
                    ]
                }
            ],
        },
        "connect_timeout": "0.5s",
        "upstream_connection_options": {"tcp_keepalive": _KEEP_ALIVE},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "lb_policy": "LEAST_REQUEST",
        # The merge window would keep a dead engine in the choice for a second, and it has the fewest requests. Where no
        # engine passes its checks all are asked: busy ones answer late, and one that is not ready says why.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 1},
            "update_merge_window": "0s",
        },
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": {
            "thresholds": [
                {
                    "priority": "DEFAULT",
                    "max_connections": 1024,
                    "max_pending_requests": 1024,
                    "max_requests": 4096,
                    "retry_budget": {
                        "budget_percent": {"value": 100},
                        "min_retry_concurrency": 1024,
                    },
                }
            ]
        },
    }


def _health_check() -> Object:
    return {
        "timeout": "1s",
        "interval": "1s",
        "no_traffic_interval": "1s",
        "unhealthy_interval": "0.5s",
        "interval_jitter": "0.1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "reuse_connection": True,
        "http_health_check": {
            "path": "/readyz",
            "expected_statuses": [{"start": 200, "end": 201}],
        },
    }


def _outlier_detection() -> Object:
    # Only engines that cannot be reached are set aside. An answer with 500 to 504 is an answer: one caller's rows that
    # a model cannot take, a Python model that dies of them, or a burst that all engines turn away, must not take
    # engines from everybody else.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "10s",
        "max_ejection_percent": 67,
    }


def _overload(heap: int) -> Object:
    def action(name: str, threshold: float) -> Object:
        trigger = {
            "name": "envoy.resource_monitors.fixed_heap",
            "threshold": {"value": threshold},
        }
        return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            _extension(
                "envoy.resource_monitors.fixed_heap",
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=heap,
            ),
            _extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=_CONNECTIONS,
            ),
        ],
        "actions": [action("shrink_heap", 0.9), action("stop_accepting_requests", 0.95)],
    }


def _address(host: str, port: int) -> Object:
    return {"socket_address": {"address": host, "port_value": port}}


def _header(key: str, value: str) -> Object:
    return {
        "header": {"key": key, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _extension(name: str, kind: str, **fields: Any) -> Object:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}
