"""What engines are told: the config folder as a ConfigMap within its bounds, and logins as a Secret."""

import base64
import json
import re
from typing import Any

import pytest
from pydantic import JsonValue

from kit.situations import OWNER, A, B, index_of
from midstream_api import names, version
from midstream_api.engineconfig import Index, ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Framework, Verify
from midstream_operator import objects


def test_the_config_map_is_the_config_folder() -> None:
    """The index and each document, byte for byte."""
    index, files = index_of(version.dump(A), version.dump(B))
    data = objects.config_map(OWNER, index, files)["data"]

    assert Index.model_validate_json(data.pop(names.INDEX_FILE)) == index
    assert files == {name: text.encode() for name, text in data.items()}


def test_a_document_that_does_not_fit_is_refused() -> None:
    """The largest that fits is taken, twice with its index; one byte more is an error that gives size and limit."""
    index, files = index_of(b"x" * names.MAX_CONFIG, b"y" * names.MAX_CONFIG)
    data = objects.config_map(OWNER, index, files)["data"]
    assert sum(len(each) for each in data.values()) <= 1 << 20  # what an API server takes

    index, files = index_of(b"x" * (names.MAX_CONFIG + 1))
    with pytest.raises(
        objects.ConfigTooLarge, match="has 409601 bytes, and the limit is 409600"
    ) as said:
        objects.config_map(OWNER, index, files)
    assert "ConfigTooLarge" == said.value.reason


@pytest.mark.parametrize(
    ("code", "rows", "told"),
    [
        (0, 0, r"give it fewer or smaller steps"),
        (9, 0, r"9 of them are code in source\.inline: put it in files.*push`[^;]*$"),
        (0, 2, r"\d\d of them are golden rows: give fewer or smaller ones in verify$"),
        (999, 2, r"code in source\.inline.*; \d\d of them are golden rows"),
        (9, 50, r"golden rows.*; 9 of them are code"),
    ],
)
def test_a_document_that_does_not_fit_says_what_is_large_in_it(
    code: int, rows: int, told: str
) -> None:
    """What takes the most room comes first, with what to do about it; what takes none is not spoken of."""
    row: list[dict[str, JsonValue]] = [{"x": [1]}] * rows
    model = ResolvedModel(
        name="rf",
        framework=Framework.PYTHON,
        uri=None if code else "oci://registry/rf",
        inline="x" * code or None,
        sha256="0" * 64,
        size=1,
        verify=Verify(inputs=row, outputs=row) if rows else None,
    )
    steps = [ResolvedStep(name="predict", model=model)]
    large = RevisionDocument(pipeline=OWNER.name, version="v", steps=steps)

    said = objects.ConfigTooLarge.of(large, 500_000)

    assert "has 500000 bytes, and the limit is 409600" in str(said)
    assert re.search(told, str(said)), str(said)


def test_an_index_without_its_document_is_a_defect() -> None:
    """An engine could not obey it."""
    index, _ = index_of(version.dump(A))
    with pytest.raises(ValueError, match="which is not among"):
        objects.config_map(OWNER, index, {})


def test_logins_of_several_secrets_become_one() -> None:
    """Every registry's login is kept, the earlier one where two are for the same registry; helpers are left out."""
    secret = objects.registry_secret(
        OWNER,
        [
            {"auths": {"a": {"auth": "MQ=="}}, "credsStore": "desktop"},
            {"auths": {"a": {"auth": "Mg=="}, "b": {"auth": "Mw=="}}},
            {},
        ],
    )
    assert secret is not None
    content = json.loads(base64.b64decode(secret["data"]["config.json"]))

    assert {"auths": {"a": {"auth": "MQ=="}, "b": {"auth": "Mw=="}}} == content


@pytest.mark.parametrize("given", [[], [{}], [{"auths": {}}], [{"auths": None}]])
def test_without_logins_there_is_no_secret(given: list[dict[str, Any]]) -> None:
    """Nothing is made of nothing."""
    assert objects.registry_secret(OWNER, given) is None
