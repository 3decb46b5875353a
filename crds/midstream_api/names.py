"""Every fixed name of the API and of the config folder, each with its meaning.

Sits below all other modules. Holds constants only, so that a name is spelled in one place.
"""

from collections.abc import Mapping

GROUP = "midstream.dev"
"""API group of all resources."""

VERSION = "v1alpha1"
"""The one served version of the group."""

API_VERSION = f"{GROUP}/{VERSION}"
"""What a manifest's `apiVersion` says."""

PIPELINE_KIND = "Pipeline"
PIPELINE_PLURAL = "pipelines"

INDEX_FILE = "index.json"
"""The config folder's table of contents: which revisions there are, which one is stable."""

ASSIGNMENT_FILE = "assignment.json"
"""What this engine is to hold ready and to serve. Absent: it serves the stable revision."""

REGISTRY_FILE = "registry/config.json"
"""In an engine's config folder in a cluster: logins at registries, as a Docker config file. May be absent."""

DATA_LINK = "..data"
"""The symbolic link that the kubelet, and `midstream run`, swap to change a folder in one stroke."""

MAX_PIPELINE_NAME = 45
"""Characters; leaves room for the suffixes of child objects within Kubernetes' 63."""

MAX_INLINE = 64 << 10
"""Bytes of a Python model's code inside a manifest."""

MAX_CONFIG = 400 << 10
"""Bytes of one revision's document: two of them and the index must fit in a ConfigMap."""

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035 label: pipeline and step names."""

MODEL_NAME = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$"
FIELD_NAME = r"^[A-Za-z_]([-._:/A-Za-z0-9]*[A-Za-z0-9_])?$"
VALIDATION_NAME = r"^[A-Za-z0-9_]([-_ A-Za-z0-9]*[A-Za-z0-9_])?$"
SHA256 = r"^[0-9a-f]{64}$"
VERSION_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
PINNED_VERSION = f"^$|{VERSION_UUID}"
"""`spec.version`: a version, or nothing."""
OBJECT_NAME = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
"""DNS-1123 subdomain: names of Secrets and most other objects."""
QUANTITY = r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|e[0-9]+)?$"
"""A Kubernetes quantity that is not negative: `250m`, `1`, `0.5`, `512Mi`."""

RULES: Mapping[str, str] = {
    DNS_LABEL: "use lower-case letters, digits and '-'; begin with a letter, end with a letter or digit",
    MODEL_NAME: "use letters, digits, '-', '_' and '.'; begin and end with a letter or digit",
    FIELD_NAME: "use letters, digits and any of - . _ : /; begin with a letter or '_'",
    VALIDATION_NAME: "use letters, digits, '-', '_' and spaces inside",
    SHA256: "a SHA-256 is 64 lower-case hexadecimal digits",
    OBJECT_NAME: "use lower-case letters, digits, '-' and '.'; begin and end with a letter or digit",
    PINNED_VERSION: "a version is a UUID in lower case, as status.versions lists them",
    QUANTITY: "write a quantity such as 250m, 1 or 512Mi",
}
"""Each pattern in words, as messages have it: on a laptop and, by CEL, in a cluster."""

# What the operator writes on objects of its own, never on a user's.

MANAGED_BY = "midstream"
"""Value of `app.kubernetes.io/managed-by` on every owned object."""

PIPELINE_LABEL = f"{GROUP}/pipeline"
"""The pipeline's name, on every owned object."""

VERSION_LABEL = f"{GROUP}/version"
"""The version UUID, on a ControllerRevision."""

ASSIGNMENT_ANNOTATION = f"{GROUP}/assignment"
"""On an engine pod: the `Assignment` document. The kubelet projects it to `assignment.json`."""

NUDGE_ANNOTATION = f"{GROUP}/nudge"
"""On an engine pod: changed to make the kubelet look at the pod again."""

PROVEN_ANNOTATION = f"{GROUP}/proven"
"""On an engine's ConfigMap: the stable revision, once it has served somewhere."""

RETRY_ANNOTATION = f"{GROUP}/retry"
"""On a Pipeline, by its user: any new value asks to try again what has failed for good."""

SOURCE_DIGEST_ANNOTATION = f"{GROUP}/source-digest"
"""On a ControllerRevision: digest of the steps as they were written, so that a source is resolved once."""

TAGS_ANNOTATION = f"{GROUP}/tags"
"""On a ControllerRevision: a JSON list."""

CREATED_ANNOTATION = f"{GROUP}/created"
"""On a ControllerRevision: when its document was first recorded, RFC 3339."""

UPDATED_ANNOTATION = f"{GROUP}/updated"
"""On a ControllerRevision: when it last came to the front or changed its tags, RFC 3339."""

DIGEST_ANNOTATION = f"{GROUP}/digest"
"""On an owned object: digest of what was applied, so that an unchanged object is not applied again."""

ENGINE_SUFFIX = "-engine"
"""Of a pipeline's engine Deployment, headless Service, ConfigMap, ServiceAccount and Secret."""

ENGINE_LB_SUFFIX = "-engine-lb"
"""Of a pipeline's load balancer Deployment, Service, ConfigMap and ServiceAccount."""

ENGINE_LB_PORT = 29502
"""Of the load balancer's Service."""

ENGINE_PORT = 8080
"""Data: inference, `/pipelines`, `/models`, `/livez`, `/readyz`."""

MANAGEMENT_PORT = 8081
"""Management: `/status`, `/metrics`, OpenAPI. The load balancer does not lead there."""
