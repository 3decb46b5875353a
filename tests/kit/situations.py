"""Situations of a pipeline as the operator sees them: who serves what, what is under way, what has failed."""

import hashlib
from dataclasses import replace
from typing import Any

from kit.folder import document, entry
from midstream_api import names, version
from midstream_api.engineconfig import Index, IndexEntry, ResolvedModel, RevisionDocument
from midstream_api.pipeline import Pipeline, PipelineSpec
from midstream_api.status import PipelineStatus, RolloutStatus, Stage
from midstream_operator import versions
from midstream_operator.metadata import Owner
from midstream_operator.observed import EngineReport, Failure, Pod, RevisionReport
from midstream_operator.status import View

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWNER = Owner("house-price", "workspace-a", UID)
NOW = "2026-11-21T14:05:09.123Z"


def revision(letter: str) -> RevisionDocument:
    model = ResolvedModel(
        name=f"rf-{letter}", uri=f"https://x/{letter}", sha256=letter * 64, size=1
    )
    return document(model, pipeline=OWNER.name)


A, B = revision("a"), revision("b")
ID_A, ID_B = version.revision_id(A), version.revision_id(B)


def spec(*, replicas: int = 3, steps: bool = True, **fields: Any) -> PipelineSpec:
    step = {"name": "predict", "model": {"name": "rf", "source": {"uri": "oci://r.example.com/rf"}}}
    given = {"steps": [step] if steps else [], "deployment": {"replicas": replicas}, **fields}
    return Pipeline.read(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.PIPELINE_KIND,
            "metadata": {"name": OWNER.name},
            "spec": given,
        }
    ).spec


def report(
    serving: RevisionDocument | None, failed: RevisionDocument | None = None, **fields: Any
) -> EngineReport:
    """What an engine says that serves one revision, and could not load another one."""
    revisions = {}
    if serving is not None:
        revisions[version.revision_id(serving)] = RevisionReport(
            version.revision_id(serving),
            serving.version,
            "READY",
            models=tuple(
                {
                    "step": step.name,
                    "name": placed.model.name,
                    "version": None,
                    "sha256": placed.model.sha256,
                }
                for step in serving.steps
                for placed in step.models()
            ),
        )
    if failed is not None:
        revisions[version.revision_id(failed)] = RevisionReport(
            version.revision_id(failed),
            failed.version,
            "FAILED",
            reason="VerifyFailed",
            message="step 'predict', model 'rf-b': golden row 0 differs",
        )
    given: dict[str, Any] = {"uid": UID, "sequence": 1, "config_accepted": True, **fields}
    return EngineReport(
        serving=version.revision_id(serving) if serving else None,
        serving_version=serving.version if serving else None,
        revisions=revisions,
        **given,
    )


def pod(number: int, said: EngineReport | None = None, **fields: Any) -> Pod:
    """An engine that is ready unless told otherwise."""
    given: dict[str, Any] = {
        "name": f"house-price-engine-{number}",
        "uid": str(number),
        "ip": f"10.244.0.{number}",
        "created": f"2026-11-21T14:00:{number:02d}Z",
        "running": True,
        "ready": True,
        "deleting": False,
        "restarts": 0,
        "image_id": "",
        **fields,
    }
    return Pod(report=said, **given)


def engines(*serving: RevisionDocument | None) -> tuple[Pod, ...]:
    return tuple(pod(number, report(one)) for number, one in enumerate(serving, 1))


BALANCER = pod(9, name="house-price-engine-lb-9")
NOT_READY: dict[str, Any] = {
    "ready": False,
    "running": False,
    "details": ("containers with unready status: [engine]",),
}


def rollout(stage: Stage, target: RevisionDocument = A, **fields: Any) -> RolloutStatus:
    revision_id = version.revision_id(target)
    return RolloutStatus(
        stage=stage, generation=4, version=target.version, revision=revision_id, **fields
    )


def history(*documents: RevisionDocument) -> tuple[versions.Recorded, ...]:
    """Oldest first."""
    return versions.history(
        versions.record(
            OWNER,
            one,
            number=number,
            tags=(),
            source_digest="",
            created=NOW,
            updated=NOW,
        )
        for number, one in enumerate(documents, 1)
    )


def index(stable: RevisionDocument, candidate: RevisionDocument | None = None) -> Index:
    return Index(
        pipeline=OWNER.name,
        uid=UID,
        sequence=1,
        stable=entry(stable),
        candidate=entry(candidate) if candidate else None,
    )


def index_of(*documents: bytes) -> tuple[Index, dict[str, bytes]]:
    """The index of these bytes, stable first, and they by their file names."""
    files = {f"{hashlib.sha256(each).hexdigest()[:16]}.json": each for each in documents}
    entries = [
        IndexEntry(
            revision=name.removesuffix(".json"),
            version="v",
            document=name,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for name, data in files.items()
    ]
    index = Index(
        pipeline=OWNER.name,
        uid=OWNER.uid,
        sequence=1,
        stable=entries[0],
        candidate=entries[1] if entries[1:] else None,
    )
    return index, files


WELL = View(
    name=OWNER.name,
    namespace=OWNER.namespace,
    generation=4,
    spec=spec(),
    previous=PipelineStatus(),
    history=history(A),
    index=index(A),
    target=A,
    pods=engines(A, A, A),
    lb_pods=(BALANCER,),
    rollout=rollout(Stage.DONE),
    failure=None,
    now=NOW,
)
"""All is well: three replicas serve the one version there is."""

SWAPPING = replace(
    WELL, history=history(A, B), index=index(A, B), target=B, rollout=rollout(Stage.CANARY, B)
)
"""B is on its way and serves nowhere yet."""

VERIFY = Failure(ID_B, "VerifyFailed", "engine e-1: step 'predict', model 'rf-b': differs", False)
DOWN = Failure("", "SourceUnreachable", "step 'predict', model 'rf': no answer", True)

FAILED = replace(
    SWAPPING,
    index=index(A),
    failure=VERIFY,
    rollout=rollout(Stage.FAILED, B, reason="VerifyFailed", message=VERIFY.message),
)

UNDEPLOYED = replace(
    WELL, spec=spec(deployed=False), index=None, pods=(), lb_pods=(), rollout=None, target=A
)
