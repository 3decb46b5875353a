"""Paths of the Open Inference Protocol, and what it tells of the server and of the pipeline."""

from typing import Any

import pytest

from midstream_api import __version__
from midstream_engine.oip import metadata
from midstream_engine.oip.paths import parse_target

PATHS: dict[bytes, tuple[str, str | None] | None] = {
    b"/v2/models/house-price/infer": ("house-price", None),
    b"/v2/models/house-price/versions/bb41-52f5/infer": ("house-price", "bb41-52f5"),
    b"/v2/models/house%2Dprice/infer": ("house-price", None),
    b"/v2/models/%C3%BC/versions/%31/infer": ("ü", "1"),
    b"/v2/models/infer": None,
    b"/v2/models//infer": None,
    b"/v2/models/house-price/versions//infer": None,
    b"/v2/models/a/b/infer": None,
    b"/v2/models/a%2Fb/infer": None,
    b"/v2/models/house-price/versions/a%2fb/infer": None,
    b"/v2/models/house-price/infer/": None,
    b"/v2/models/house-price": None,
    b"/v2/models/house-price/ready": None,
    b"/v2": None,
    b"/infer": None,
    b"v2/models/house-price/infer": None,
    b"": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_inference_name_pipeline_and_version(path: bytes) -> None:
    """All others are somebody else's."""
    assert parse_target(path) == PATHS[path]


def revision(version: str, state: str = "READY") -> dict[str, Any]:
    return {
        "revision": f"r-{version}",
        "version": version,
        "state": state,
        "inputs": [
            {"name": "tensor", "dtype": "float32", "shape": [18]},
            {"name": "words", "dtype": "string", "shape": [None, 2]},
        ],
        "outputs": [{"name": "flag", "dtype": "bool", "shape": []}],
    }


def status(
    serving: str | None, *versions: str, pipeline: str | None = "house-price"
) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "ready": serving is not None,
        "serving": {"revision": f"r-{serving}", "version": serving} if serving else None,
        "revisions": [revision(version) for version in versions],
    }


SERVING = status("v-2", "v-1", "v-2")


def test_the_server_tells_its_name_and_extensions() -> None:
    """Clients look for the binary extension there."""
    assert metadata.server() == {
        "name": "midstream",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


@pytest.mark.parametrize("version", [None, "v-2"])
def test_a_pipeline_tells_its_inputs_and_outputs(version: str | None) -> None:
    """With the rows first, and -1 for what is open; of the version that serves, which a path may name."""
    assert metadata.model(SERVING, "house-price", version) == (
        200,
        {
            "name": "house-price",
            "versions": ["v-2"],
            "platform": "midstream",
            "inputs": [
                {"name": "tensor", "datatype": "FP32", "shape": [-1, 18]},
                {"name": "words", "datatype": "BYTES", "shape": [-1, -1, 2]},
            ],
            "outputs": [{"name": "flag", "datatype": "BOOL", "shape": [-1]}],
        },
    )
    assert metadata.model_ready(SERVING, "house-price", version) == (
        200,
        {"name": "house-price", "ready": True},
    )


def test_open_inputs_are_none() -> None:
    """A first step that takes anything has no fields to tell."""
    told = status("v-1", "v-1")
    told["revisions"][0]["inputs"] = None
    assert metadata.model(told, "house-price")[1]["inputs"] == []


@pytest.mark.parametrize("ask", [metadata.model, metadata.model_ready])
def test_another_pipeline_or_version_is_not_found(ask: Any) -> None:
    """The message says which serves, and what to do."""
    code, said = ask(SERVING, "other")
    assert (code, said["reason"]) == (404, "UnknownPipeline")
    assert said["error"] == "no pipeline 'other' here; this engine serves 'house-price'"
    code, said = ask(SERVING, "house-price", "v-1")
    assert (code, said["reason"]) == (404, "UnknownVersion")
    assert said["error"] == (
        "version 'v-1' of 'house-price' does not serve here, 'v-2' does; leave the version out to take what serves"
    )


@pytest.mark.parametrize("told", [status(None, "v-1"), status(None, pipeline=None)])
@pytest.mark.parametrize("ask", [metadata.model, metadata.model_ready])
def test_before_anything_serves_a_pipeline_is_not_ready(told: Any, ask: Any) -> None:
    """That is 503: it may come."""
    code, said = ask(told, "house-price")
    assert (code, said["reason"]) == (503, "NotReady")


def test_all_workers_are_asked() -> None:
    """While they differ, each version that serves may be asked for; metadata is the first one's."""
    told = {
        "pipeline": "house-price",
        "ready": True,
        "serving": None,
        "workers": [
            {"ready": False, "serving": None, "revisions": []},
            status("v-1", "v-1", "v-2"),
            status("v-2", "v-1", "v-2"),
        ],
    }
    assert metadata.model(told, "house-price")[1]["versions"] == ["v-1", "v-2"]
    assert metadata.model_ready(told, "house-price", "v-2")[0] == 200
    assert metadata.model(told, "house-price", "v-3")[0] == 404
