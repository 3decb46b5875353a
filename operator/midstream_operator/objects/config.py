"""What the engines of a Pipeline are told: the config folder as a ConfigMap, logins at registries as a Secret.

Pure. Equal content gives equal objects. The assignment is no part of it: that is an annotation of each pod.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from midstream_api import names, version
from midstream_api.engineconfig import Index, RevisionDocument
from midstream_operator import metadata
from midstream_operator.metadata import ENGINE, Owner
from midstream_operator.observed import Object

REGISTRY_KEY = "config.json"
"""In the Secret: logins at registries, as a Docker config file."""


class ConfigTooLarge(Exception):
    """A revision's document is larger than the engines' ConfigMap has room for. Heals by a smaller spec only."""

    reason = "ConfigTooLarge"

    def __init__(self, document: str, size: int, remedy: str = "") -> None:
        super().__init__(
            f"the revision's document {document} has {size} bytes, and the limit is {names.MAX_CONFIG}, "
            f"for two of them must fit in a ConfigMap{remedy}"
        )
        self.document = document
        self.size = size

    @classmethod
    def of(cls, document: RevisionDocument, size: int) -> "ConfigTooLarge":
        """Say what is large in a document, and what to do about it."""
        code = sum(len((model.inline or "").encode()) for model in document.models())
        rows = sum(
            len(version.canonical(model.verify.model_dump(mode="json")))
            for model in document.models()
            if model.verify is not None
        )
        in_code = (
            f"{code} of them are code in source.inline: put it in files, give their source.uri, "
            "and `midstream push` the manifest"
        )
        in_rows = f"{rows} of them are golden rows: give fewer or smaller ones in verify"
        told = [
            sentence
            for amount, sentence in sorted([(code, in_code), (rows, in_rows)], reverse=True)
            if amount
        ]
        remedy = "; ".join(["", *(told or ["give it fewer or smaller steps and validations"])])
        return cls(f"{version.revision_id(document)}.json", size, remedy)


def config_map(owner: Owner, index: Index, documents: Mapping[str, bytes]) -> Object:
    """Make the engines' ConfigMap. documents: the bytes of each revision's document by file name.

    Raises ConfigTooLarge, and ValueError when the index names a document that is not given.
    """
    for name, document in sorted(documents.items()):
        if len(document) > names.MAX_CONFIG:
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
