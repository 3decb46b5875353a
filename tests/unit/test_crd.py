"""The generated CRD says what the types say."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue

from kit import apiserver, corpus
from midstream import yamldoc
from midstream_api import crdgen, names
from midstream_api.pipeline import Pipeline
from midstream_api.status import PipelineStatus

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    """The committed CRD."""
    loaded: dict[str, Any] = yaml.safe_load((CRDS / "pipelines.yaml").read_text(encoding="utf-8"))
    return loaded


def test_committed_file_is_what_the_generator_writes() -> None:
    """`make generate` would change nothing."""
    command = [sys.executable, str(CRDS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_file_holds_the_whole_crd(crd: dict[str, Any]) -> None:
    """YAML brings back what was generated, numbers included."""
    assert crd == crdgen.pipeline_crd()


@pytest.mark.parametrize("path", corpus.VALID, ids=corpus.name)
def test_valid_manifest_is_accepted_by_types_and_cluster(crd: dict[str, Any], path: Path) -> None:
    """What the types accept, a cluster accepts."""
    (document,) = yamldoc.parse(path.read_text(encoding="utf-8"))
    Pipeline.read(document.value)
    assert apiserver.verdict(crd, document.value) == []


@pytest.mark.parametrize("path", corpus.refused_as_data(), ids=corpus.name)
def test_invalid_manifest_is_refused_by_types_and_cluster(crd: dict[str, Any], path: Path) -> None:
    """What the types refuse, a cluster refuses."""
    (document,) = yamldoc.parse(path.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="validation error"):
        Pipeline.read(document.value)
    assert apiserver.verdict(crd, document.value) != []


@pytest.mark.parametrize("path", corpus.left_to_the_operator(), ids=corpus.name)
def test_what_no_rule_can_say_is_refused_by_the_types(crd: dict[str, Any], path: Path) -> None:
    """What a cluster takes although it is wrong, whoever reads it with the types refuses."""
    (document,) = yamldoc.parse(path.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="validation error"):
        Pipeline.read(document.value)
    assert apiserver.verdict(crd, document.value) == []


@pytest.mark.parametrize("path", corpus.VALID, ids=corpus.name)
def test_valid_manifest_survives_a_round_trip(path: Path) -> None:
    """Nothing is lost between reading and writing, with and without defaults."""
    (document,) = yamldoc.parse(path.read_text(encoding="utf-8"))
    pipeline = Pipeline.read(document.value)
    for written in (
        pipeline.model_dump(mode="json", by_alias=True, exclude_none=True),
        pipeline.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    ):
        assert Pipeline.model_validate(written) == pipeline


def _properties(schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, each in schema.get("properties", {}).items():
        yield f"{place}.{name}", each
        yield from _properties(each, f"{place}.{name}")
    for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if inner in schema:
            yield f"{place}{mark}", schema[inner]
            yield from _properties(schema[inner], f"{place}{mark}")


def _schema(crd: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def test_every_field_is_described(crd: dict[str, Any]) -> None:
    """`kubectl explain` has a sentence for each field that is ours."""
    fields = {
        name: each
        for name, each in _properties(_schema(crd), "")
        if not name.endswith(("[]", ".*"))
    }
    assert [name for name, each in fields.items() if "description" not in each] == [".metadata"]


def test_everything_of_a_length_is_bounded(crd: dict[str, Any]) -> None:
    """An API server refuses rules over what may be of any length."""
    for name, each in _properties(_schema(crd), ""):
        kind = each.get("type", "string" if each.get("x-kubernetes-int-or-string") else None)
        if kind == "array":
            assert "maxItems" in each, name
        if "additionalProperties" in each:
            assert "maxProperties" in each, name
        if kind == "string" and name not in {".apiVersion", ".kind"}:
            assert "maxLength" in each or "enum" in each, name


def test_steps_are_a_map_by_name(crd: dict[str, Any]) -> None:
    """Two appliers may own a step each, and no two steps share a name."""
    steps = _schema(crd)["properties"]["spec"]["properties"]["steps"]
    assert steps["x-kubernetes-list-type"] == "map"
    assert steps["x-kubernetes-list-map-keys"] == ["name"]


def test_named_lists_are_maps_by_name(crd: dict[str, Any]) -> None:
    """Every list of things with names is one: two entries of one name are refused, and merged by name."""
    plain = []
    for place, each in _properties(_schema(crd)["properties"]["spec"], "spec"):
        entries = each.get("items", {}).get("properties", {})
        if "name" in entries and each.get("x-kubernetes-list-map-keys") != ["name"]:
            plain.append(place)
    assert plain == []


def test_status_is_a_room_of_its_own(crd: dict[str, Any]) -> None:
    """Who may write the spec may not write the status, and the other way round."""
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_a_status_that_nobody_has_written_is_of_no_generation(crd: dict[str, Any]) -> None:
    """Whoever waits, and looks before the operator did, must not take an empty status for a good one."""
    status = _schema(crd)["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert PipelineStatus.read(status["default"]).observed_generation == -1


def test_no_default_writes_an_object_into_a_users_spec(crd: dict[str, Any]) -> None:
    """What GitOps compares with its repository grows by plain values only."""
    spec = _schema(crd)["properties"]["spec"]
    defaults = [each["default"] for _, each in _properties(spec, "") if "default" in each]
    assert len(defaults) > 5
    assert not [value for value in defaults if isinstance(value, dict | list)]


def test_columns_lead_to_fields_of_the_schema(crd: dict[str, Any]) -> None:
    """`kubectl get pipelines` shows what is there."""
    fields = {name for name, _ in _properties(_schema(crd), "")} | {".metadata.creationTimestamp"}
    for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = re.sub(r"\[[^]]*\]", "[]", column["jsonPath"])
        assert path in fields, column["name"]


def test_crd_has_the_fixed_names(crd: dict[str, Any]) -> None:
    """The names are those of `names`, and the object is named as Kubernetes wants it."""
    spec = crd["spec"]
    assert crd["metadata"]["name"] == f"{spec['names']['plural']}.{names.GROUP}"
    assert (spec["group"], spec["scope"]) == (names.GROUP, "Namespaced")
    assert [version["name"] for version in spec["versions"]] == [names.VERSION]


@pytest.mark.parametrize("pattern", crdgen.CHEAPER)
@given(
    st.text(alphabet="".join(map(chr, range(32, 127))) + "\n")
    | st.text(alphabet="aZ_09-.:/ ", max_size=8)
)
def test_a_cheaper_pattern_allows_the_same(pattern: str, text: str) -> None:
    """An API server's rule in words and the schema beside it never disagree."""
    cheaper = re.compile(crdgen.CHEAPER[pattern].replace("$", r"\Z"), re.ASCII)
    plain = re.compile(pattern.replace("$", r"\Z"))
    assert bool(cheaper.match(text)) == bool(plain.match(text))


class _Inner(BaseModel):
    name: Annotated[str, Field(max_length=8)]


class _Recursive(BaseModel):
    inner: "_Recursive | None" = None


class _Union(BaseModel):
    either: _Inner | bool


class _FreeKeys(BaseModel):
    labels: dict[str, bool]


class _EndlessMapping(BaseModel):
    labels: dict[str, Annotated[str, Field(max_length=8)]]


class _EndlessValues(BaseModel):
    labels: Annotated[dict[str, str], Field(max_length=8)]


class _EndlessList(BaseModel):
    names: list[bool]


class _EndlessString(BaseModel):
    name: str


class _Anything(BaseModel):
    value: Any


class _Tuple(BaseModel):
    pair: tuple[int, int]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Recursive, "contains itself"),
        (_Union, "a union"),
        (_FreeKeys, "free keys"),
        (_EndlessMapping, "mapping a max_length"),
        (_EndlessValues, "string a max_length"),
        (_EndlessList, "list a max_length"),
        (_EndlessString, "string a max_length"),
        (_Anything, "has no type"),
        (_Tuple, "prefixItems"),
    ],
)
def test_what_a_structural_schema_cannot_say_is_refused(model: type[BaseModel], said: str) -> None:
    """A rule is never dropped in silence."""
    with pytest.raises(crdgen.NotStructural, match=said):
        crdgen.structural(model)


class _Convertible(BaseModel):
    ratio: Annotated[float, Field(gt=0)] = 0.5
    inner: _Inner | None = None
    rows: Annotated[list[dict[str, JsonValue]], Field(max_length=2)]
    labels: Annotated[dict[str, Annotated[str, Field(max_length=8)]], Field(max_length=2)] = {}
    amount: Annotated[
        int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True, "maxLength": 4})
    ] = 1


def test_conversion_keeps_what_can_be_said() -> None:
    """An exclusive minimum, an optional object, rows of any JSON, labels and quantities have structural forms."""
    assert crdgen.structural(_Convertible) == {
        "type": "object",
        "properties": {
            "ratio": {"default": 0.5, "minimum": 0, "exclusiveMinimum": True, "type": "number"},
            "inner": {
                "type": "object",
                "properties": {"name": {"maxLength": 8, "type": "string"}},
                "required": ["name"],
            },
            "rows": {
                "type": "array",
                "maxItems": 2,
                "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
            "labels": {
                "type": "object",
                "maxProperties": 2,
                "additionalProperties": {"maxLength": 8, "type": "string"},
            },
            "amount": {"x-kubernetes-int-or-string": True, "maxLength": 4, "default": 1},
        },
        "required": ["rows"],
    }
