"""What the engines of a Pipeline are told: the config folder as a ConfigMap, logins at registries as a Secret.

Pure. Equal content gives equal objects. The assignment is no part of it: that is an annotation of each pod.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from midstream_api import names, version
from midstream_api.engineconfig import Index
from midstream_operator import metadata
from midstream_operator.metadata import ENGINE, Owner
from midstream_operator.observed import Object

MAX_DOCUMENT = 400 << 10
"""Bytes of one revision's document. Two of them and the index must fit in a ConfigMap, which takes 1 MiB."""

REGISTRY_KEY = "config.json"
"""In the Secret: logins at registries, as a Docker config file."""


class ConfigTooLarge(Exception):
    """A revision's document does not fit in a ConfigMap. Heals by a smaller spec only."""

    reason = "ConfigTooLarge"

    def __init__(self, document: str, size: int) -> None:
        super().__init__(
            f"the revision's document {document} has {size} bytes, at most {MAX_DOCUMENT} fit in a ConfigMap; "
            "give the models fewer or smaller rows in verify"
        )
        self.document = document
        self.size = size


def config_map(owner: Owner, index: Index, documents: Mapping[str, bytes]) -> Object:
    """Make the engines' ConfigMap. documents: the bytes of each revision's document by file name.

    Raises ConfigTooLarge, and ValueError when the index names a document that is not given.
    """
    for name, document in sorted(documents.items()):
        if len(document) > MAX_DOCUMENT:
            raise ConfigTooLarge(name, len(document))
    missing = [entry.document for entry in index.entries() if entry.document not in documents]
    if missing:
        raise ValueError(f"the index names {missing[0]}, which is not among {sorted(documents)}")
    return metadata.digested(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata.of(owner, ENGINE, owner.engine),
            "data": {
                names.INDEX_FILE: version.dump(index).decode(),
                **{name: document.decode() for name, document in sorted(documents.items())},
            },
        }
    )


def registry_secret(owner: Owner, docker_configs: Sequence[Mapping[str, Any]]) -> Object | None:
    """Merge the logins of several Docker configs into one Secret; None when there are none.

    Of two logins at one registry the earlier config's counts. Credential helpers are left out: a pod has none.
    """
    logins: dict[str, Any] = {}
    for config in docker_configs:
        for registry, login in (config.get("auths") or {}).items():
            logins.setdefault(registry, login)
    if not logins:
        return None
    content = base64.b64encode(version.canonical({"auths": logins})).decode()
    return metadata.digested(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": metadata.of(owner, ENGINE, owner.engine),
            "data": {REGISTRY_KEY: content},
        }
    )
