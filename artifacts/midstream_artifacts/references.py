"""Addresses in OCI registries: `oci://registry[:port]/repository[:tag][@sha256:digest]`.

Pure. The digest is that of the manifest; with it a tag is only a remark. Without both the tag is `latest`.
"""

import re
from dataclasses import dataclass, replace

from midstream_api import names
from midstream_artifacts.errors import InvalidSource, redacted

SCHEME = "oci://"
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*")

_HOST = re.compile(r"(?:[A-Za-z0-9]+(?:[.-]+[A-Za-z0-9]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MAX_REPOSITORY = 255
_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
"""The one registry whose name in addresses is not that of the machine that answers."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an `oci://` address means."""

    registry: str
    """Host, with the port if there is one."""
    repository: str
    tag: str | None
    digest: str | None
    """Of the manifest, 64 hexadecimal digits."""

    @classmethod
    def parse(cls, uri: str) -> "Reference":
        """Understand `uri`, whose scheme may be written in any case. Raises `InvalidSource`."""
        rest = uri[len(SCHEME) :]
        host, slash, path = rest.partition("/")
        if not uri[: len(SCHEME)].lower() == SCHEME or not slash or not path:
            raise _invalid(
                uri, f"names no repository; write {SCHEME}registry/repository@sha256:<digest>"
            )
        if "@" in host:
            raise _invalid(
                uri,
                "has a user name or password in it; log in with `docker login`, or, in a cluster, name a Secret "
                "in source.secretRef",
            )
        if not _HOST.fullmatch(host):
            raise _invalid(uri, f"has {host!r} where a registry is expected, such as host:5000")
        if "?" in path or "#" in path:
            raise _invalid(uri, "has a '?' or '#', which mean nothing to a registry; remove them")
        path, at, digest = path.partition("@")
        if at and not re.fullmatch(rf"sha256:{names.SHA256.strip('^$')}", digest):
            raise _invalid(
                uri, "has no digest after '@'; write sha256: and 64 lower-case hexadecimal digits"
            )
        repository, colon, tag = path.partition(":")
        if colon and not TAG.fullmatch(tag):
            raise _invalid(
                uri,
                f"has the tag {tag!r}; a tag has up to 128 letters, digits, '_', '.' and '-', and begins with "
                "none of the last two",
            )
        if not REPOSITORY.fullmatch(repository) or len(repository) > _MAX_REPOSITORY:
            raise _invalid(
                uri,
                f"has the repository {repository[:64]!r}; use lower-case letters and digits, with '/', '.', '_' "
                "or '-' between them",
            )
        return cls(
            registry=host.lower(),
            repository=repository,
            tag=tag or (None if at else "latest"),
            digest=digest.removeprefix("sha256:") or None,
        )

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest, or else the tag."""
        return f"sha256:{self.digest}" if self.digest else str(self.tag)

    @property
    def host(self) -> str:
        """The machine that answers, with its port."""
        return _HUB.get(self.registry, self.registry)

    def at(self, digest: str) -> "Reference":
        """Return the same place, pinned to the manifest with this digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@sha256:{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.registry}/{self.repository}{tag}{digest}"


def _invalid(uri: str, what: str) -> InvalidSource:
    return InvalidSource(f"source {redacted(uri)!r} {what}")
