"""Files of the chart that need no Helm to be judged: copies of the CRDs, the schema, the health check in Lua."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from lupa.lua51 import LuaRuntime

import midstream_api

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "midstream"
GENERATION = 7

Health = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def health() -> Health:
    """Argo CD's call of the script: the same dialect of Lua, and `obj` as the one global."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    run = lua.eval(
        "function(text, obj) local check = loadstring(text);"
        " setfenv(check, {obj = obj, ipairs = ipairs}); return check() end"
    )
    script = (CHART / "files" / "argocd-health.lua").read_text()

    def judge(status: Mapping[str, Any] | None) -> dict[str, str]:
        obj: dict[str, Any] = {"metadata": {"generation": GENERATION}}
        if status is not None:
            obj["status"] = status
        return dict(run(script, lua.table_from(obj, recursive=True)))

    return judge


def conditions(**given: str) -> dict[str, Any]:
    """A status of the current generation; each condition as `status reason`."""
    made = [
        {"type": kind, "status": text.split()[0], "reason": text.split()[1], "message": f"{kind}!"}
        for kind, text in given.items()
    ]
    return {"observedGeneration": GENERATION, "conditions": made}


def test_the_chart_has_the_crds() -> None:
    """The chart installs exactly what `make generate` wrote."""
    wanted = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    copied = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert copied == wanted


def test_the_chart_has_the_packages_version() -> None:
    """Chart, images and package are one release."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (midstream_api.__version__,) * 2


def test_defaults_fit_their_schema() -> None:
    """The schema takes the defaults, and knows every one of them."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(values)
    assert values.keys() == schema["properties"].keys() - {"global"}


@pytest.mark.parametrize(
    "status",
    [
        None,
        {"observedGeneration": -1},
        {**conditions(Ready="True Serving"), "observedGeneration": GENERATION - 1},
        {**conditions(Ready="False Broken", Stalled="True Broken"), "observedGeneration": 1},
    ],
)
def test_health_of_an_earlier_generation_is_not_told(health: Health, status: Any) -> None:
    """Until the operator has looked at this generation it is Progressing, whatever was said before."""
    assert health(status)["status"] == "Progressing"


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ({"Ready": "True Serving"}, "Healthy", "Serving: Ready!"),
        (
            {"Ready": "True Undeployed", "Available": "False Undeployed"},
            "Healthy",
            "Undeployed: Ready!",
        ),
        (
            {"Ready": "False RollingOut", "Reconciling": "True RollingOut"},
            "Progressing",
            "RollingOut: Reconciling!",
        ),
        (
            {"Available": "True Up", "Ready": "False ShaMismatch", "Stalled": "True ShaMismatch"},
            "Degraded",
            "ShaMismatch: Stalled!",
        ),
        (
            {"Ready": "False X", "Reconciling": "True X", "Stalled": "True Y"},
            "Degraded",
            "Y: Stalled!",
        ),
        ({"Ready": "False NoEngineReady"}, "Degraded", "NoEngineReady: Ready!"),
        ({"Ready": "Unknown Starting"}, "Progressing", "waits for the first engines"),
        ({}, "Progressing", "waits for the first engines"),
    ],
)
def test_health_follows_the_conditions(
    health: Health, given: dict[str, str], wanted: str, message: str
) -> None:
    """Stalled is Degraded, Reconciling is Progressing, Ready decides the rest; the message names the reason."""
    assert health(conditions(**given)) == {"status": wanted, "message": message}
