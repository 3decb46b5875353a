"""Every fixed name of the API and of the config folder, each with its meaning.

Sits below all other modules. Holds constants only, so that a name is spelled in one place.
"""

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

DATA_LINK = "..data"
"""The symbolic link that the kubelet, and `midstream run`, swap to change a folder in one stroke."""

MAX_PIPELINE_NAME = 45
"""Characters; leaves room for the suffixes of child objects within Kubernetes' 63."""

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035 label: pipeline and step names."""

MODEL_NAME = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$"
FIELD_NAME = r"^[A-Za-z_]([-._:/A-Za-z0-9]*[A-Za-z0-9_])?$"
SHA256 = r"^[0-9a-f]{64}$"
