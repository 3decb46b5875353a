"""Process settings of the operator: read once at the start, from arguments and the environment, then passed down."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PULL_POLICY = "IfNotPresent"
_WORKERS = 16
_PORT = 8080
_SIZE_LIMIT = 2 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    engine_image: str
    """Of engines whose pipeline names none."""
    engine_lb_image: str
    """Of load balancers."""
    pull_policy: str = _PULL_POLICY
    namespaces: tuple[str, ...] = ()
    """Where pipelines are looked after; empty: everywhere."""
    workers: int = _WORKERS
    """Pipelines that are looked at at the same time."""
    host: str = "0.0.0.0"  # noqa: S104  # the kubelet asks from outside of the pod
    port: int = _PORT
    """Of health and metrics."""
    size_limit: int = _SIZE_LIMIT
    """Bytes of a source that has to be read to learn its digest."""
    deadline: float = 600.0
    """Seconds after which a look at one pipeline is given up."""
    resync: float = 600.0
    """Seconds in which each pipeline is looked at once though nothing happened."""
    sweep: float = 30.0
    """Seconds between two lists of all pipelines."""
    json_logs: bool = False


def read(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; arguments win over the environment. Exits with a message when one cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m midstream_operator",
        description="Reconciles Pipeline resources of a Kubernetes cluster.",
    )

    def text(flag: str, variable: str, default: str, say: str) -> None:
        say = f"{say} (environment: {variable})"
        parser.add_argument(flag, default=environment.get(variable, default), help=say)

    def number(flag: str, variable: str, default: float, say: str) -> None:
        say = f"{say} (environment: {variable}; default {default})"
        # A default that is text is read as if it had been given, so a bad variable is told in the same words.
        given = environment.get(variable, str(default))
        parser.add_argument(flag, type=_positive, default=given, help=say, metavar="NUMBER")

    text("--engine-image", "ENGINE_IMAGE", "", "image of engines")
    text("--engine-lb-image", "ENGINE_LB_IMAGE", "", "image of load balancers")
    parser.add_argument(
        "--image-pull-policy",
        choices=_PULL_POLICIES,
        default=environment.get("IMAGE_PULL_POLICY") or _PULL_POLICY,
        help="of both images (environment: IMAGE_PULL_POLICY; default IfNotPresent)",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        dest="namespaces",
        metavar="NAME",
        help="look after this namespace only; may be repeated (environment: NAMESPACES, separated by commas)",
    )
    number("--workers", "WORKERS", _WORKERS, "pipelines looked at at the same time")
    number("--port", "PORT", _PORT, "of health and metrics")
    number(
        "--size-limit",
        "SOURCE_SIZE_LIMIT",
        _SIZE_LIMIT,
        "bytes of a source that has to be read to learn its digest",
    )
    parser.add_argument(
        "--json-logs",
        action="store_true",
        default=environment.get("JSON_LOGS", "").lower() in {"1", "true", "yes"},
        help="one JSON object per line of log (environment: JSON_LOGS)",
    )
    given = parser.parse_args(arguments)
    for flag in ("engine_image", "engine_lb_image"):
        if not getattr(given, flag):
            parser.error(f"--{flag.replace('_', '-')} or {flag.upper()} is required: name an image")
    if given.image_pull_policy not in _PULL_POLICIES:
        parser.error(
            f"IMAGE_PULL_POLICY is {given.image_pull_policy!r}; use one of {', '.join(_PULL_POLICIES)}"
        )
    namespaces = given.namespaces or environment.get("NAMESPACES", "").split(",")
    return Settings(
        engine_image=given.engine_image,
        engine_lb_image=given.engine_lb_image,
        pull_policy=given.image_pull_policy,
        namespaces=tuple(dict.fromkeys(each.strip() for each in namespaces if each.strip())),
        workers=given.workers,
        port=given.port,
        size_limit=given.size_limit,
        json_logs=given.json_logs,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
