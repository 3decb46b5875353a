"""The history of a pipeline: what is recorded, what is found again, what is forgotten."""

import json
from typing import Any

import pytest

from kit.folder import document
from midstream_api import names, version
from midstream_api.engineconfig import ResolvedModel, RevisionDocument
from midstream_api.model import Verify
from midstream_api.pipeline import Pipeline, PipelineSpec
from midstream_api.validation import Validation
from midstream_operator import versions
from midstream_operator.metadata import Owner
from midstream_operator.observed import Object

OWNER = Owner("house-price", "workspace-a", "0f8fad5b-d9cb-469f-a165-70867728950e")


def model(name: str, *, rows: float | None = None) -> ResolvedModel:
    """A model of a name; golden rows make other documents of the same version."""
    verify = rows and Verify(inputs=[{"tensor": [rows]}], outputs=[{"variable": [1.0]}])
    uri = f"https://models.example.com/{name}.onnx"
    return ResolvedModel(name=name, uri=uri, sha256="a" * 64, size=1, verify=verify or None)


def revision(name: str, *, rows: float | None = None) -> RevisionDocument:
    return document(model(name, rows=rows), pipeline=OWNER.name)


def at(minute: int) -> str:
    return f"2026-11-21T14:{minute:02d}:00.000Z"


def recorded(
    found: RevisionDocument,
    number: int,
    *,
    tags: tuple[str, ...] = (),
    source: str = "",
    created: str | None = None,
) -> Object:
    """A ControllerRevision as an API server gives it back."""
    made = versions.record(
        OWNER,
        found,
        number=number,
        tags=tags,
        source_digest=source,
        created=created or at(number),
        updated=at(number),
    )
    back: Object = json.loads(json.dumps(made))
    return back


A, B, C = (revision(name) for name in "abc")


def test_a_document_that_is_recorded_is_read_as_it_was() -> None:
    """Document, number, tags, digest and times come back."""
    given = recorded(A, 3, tags=("blue", "größer"), source="d" * 64, created=at(1))
    (found,) = versions.history([given])
    assert found == versions.Recorded(
        name=f"house-price-{version.revision_id(A)}",
        number=3,
        revision=version.revision_id(A),
        version=A.version,
        document=A,
        created=at(1),
        updated=at(3),
        tags=("blue", "größer"),
        source_digest="d" * 64,
    )


def test_a_record_is_found_by_label_and_goes_with_its_pipeline() -> None:
    """Labels name pipeline and version, and the owner reference lets Kubernetes delete it."""
    metadata = recorded(A, 1)["metadata"]
    assert metadata["labels"][names.PIPELINE_LABEL] == "house-price"
    assert metadata["labels"][names.VERSION_LABEL] == A.version
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "midstream"
    assert [each["uid"] for each in metadata["ownerReferences"]] == [OWNER.uid]


def test_history_is_newest_first_whatever_the_order_of_the_objects() -> None:
    """The number tells, not the name and not the time."""
    objects = [recorded(A, 2), recorded(C, 9), recorded(B, 10)]
    assert [one.document for one in versions.history(objects)] == [B, C, A]
    assert versions.latest(versions.history(objects)) == versions.history(objects)[0]


def test_a_pipeline_without_history_has_no_latest_and_begins_with_one() -> None:
    """The first number is 1."""
    assert versions.latest(()) is None
    assert versions.next_number(()) == 1


def test_a_version_that_comes_back_moves_to_the_front_as_the_same_object() -> None:
    """A, B, A: the same name and data, a higher number, the time of its first recording kept."""
    first, second = recorded(A, 1), recorded(B, 2)
    again = recorded(A, versions.next_number(versions.history([first, second])), created=at(1))
    assert (again["metadata"]["name"], again["data"]) == (first["metadata"]["name"], first["data"])
    front = versions.history([again, second])[0]
    assert (front.version, front.number, front.created, front.updated) == (
        A.version,
        3,
        at(1),
        at(3),
    )


def spoilt_data(given: Object) -> None:
    given["data"]["steps"] = []


def data_of_a_newer_operator(given: Object) -> None:
    given["data"]["schemaVersion"] = 2


def data_of_another(given: Object) -> None:
    given["data"] = json.loads(version.dump(B))


def no_data(given: Object) -> None:
    del given["data"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoilt_data, "data.steps"),
        (data_of_a_newer_operator, "data.schemaVersion"),
        (data_of_another, f"its data is that of house-price-{version.revision_id(B)}"),
        (no_data, "data: "),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(spoil: Any, said: str) -> None:
    """One damaged record hides none of the others."""
    damaged, sound = recorded(A, 1), recorded(C, 2)
    spoil(damaged)
    assert [one.document for one in versions.history([damaged, sound])] == [C]
    (sentence,) = versions.unreadable([damaged, sound])
    assert damaged["metadata"]["name"] in sentence
    assert said in sentence


@pytest.mark.parametrize("annotations", [None, {}, {names.TAGS_ANNOTATION: "{"}])
def test_a_record_without_its_annotations_is_still_a_version(annotations: Any) -> None:
    """Whoever strips them loses tags and a saved resolving, not a version to go back to."""
    given = recorded(A, 1, tags=("blue",), source="d")
    given["metadata"]["annotations"] = annotations
    given["metadata"]["creationTimestamp"] = "2026-11-21T14:00:00Z"
    (found,) = versions.history([given])
    assert (found.tags, found.source_digest, found.created) == ((), "", "2026-11-21T14:00:00Z")


# Sources


def spec(**changes: Any) -> PipelineSpec:
    """A spec as an API server gives it, with changes in its model."""
    given = {"name": "rf", "source": {"uri": "oci://registry.example.com/rf:v1"}, **changes}
    return Pipeline.read(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.PIPELINE_KIND,
            "metadata": {"name": "house-price"},
            "spec": {"steps": [{"name": "predict", "model": given}]},
        }
    ).spec


def test_the_same_steps_are_found_by_their_source_so_a_tag_is_resolved_once() -> None:
    """What the tag pointed to when it was first seen is what it means for these steps."""
    digest = versions.source_digest(spec())
    history = versions.history([recorded(A, 1, source=digest), recorded(B, 2, source="other")])
    found = versions.by_source(history, digest)
    assert found is not None
    assert found.document == A
    assert versions.by_source(history, versions.source_digest(spec(version="2"))) is None


def test_a_default_that_is_spelled_out_is_the_same_source() -> None:
    """An API server fills defaults in, and a newer operator knows more of them: nothing new is recorded."""
    spelled = spec(
        framework="ONNX", source={"uri": "oci://registry.example.com/rf:v1", "insecure": False}
    )
    assert versions.source_digest(spelled) == versions.source_digest(spec())


@pytest.mark.parametrize(
    "changes",
    [
        {"source": {"uri": "oci://registry.example.com/rf:v2"}},
        {"source": {"uri": "oci://registry.example.com/rf:v1", "secretRef": {"name": "login"}}},
        {"sha256": "b" * 64},
        {"verify": {"inputs": [{"x": [1]}], "outputs": [{"y": [2]}]}},
    ],
)
def test_other_steps_are_another_source(changes: dict[str, Any]) -> None:
    """Whatever could resolve otherwise is resolved anew."""
    assert versions.source_digest(spec(**changes)) != versions.source_digest(spec())


def test_a_source_is_what_it_was_for_earlier_operators() -> None:
    """An upgrade resolves nothing anew: a mutable source would become another version."""
    assert versions.source_digest(spec()) == (
        "721749b23d98fae346097e18a45fa5a7bcdbdb6d6bf4b020763c4c4b816bd3d7"
    )


def test_validations_are_part_of_the_source() -> None:
    """Another check is another version."""
    plain = spec()
    check = Validation(name="high", expression="out.y < 1.0")
    checked = plain.model_copy(update={"validations": [check]})
    other = plain.model_copy(update={"validations": [check.model_copy(update={"name": "low"})]})
    digests = {versions.source_digest(each) for each in (plain, checked, other)}
    assert len(digests) == 3


def test_what_is_around_the_steps_is_no_part_of_the_source() -> None:
    """Replicas, tags, pinning and undeploying resolve nothing."""
    plain = spec()
    around = plain.model_copy(update={"deployed": False, "tags": ["blue"], "version": A.version})
    assert versions.source_digest(around) == versions.source_digest(plain)


# Versions


def test_a_version_is_its_newest_document() -> None:
    """Golden rows make a new document of the same version; pinning the version means the newest."""
    newer = revision("a", rows=1.5)
    assert newer.version == A.version
    history = versions.history([recorded(A, 1), recorded(newer, 2), recorded(B, 3)])
    found = versions.by_version(history, A.version)
    assert found is not None
    assert found.document == newer
    assert versions.by_version(history, C.version) is None


def test_versions_are_listed_once_each_newest_first() -> None:
    """One entry per version: first recorded when its first document was, updated when its newest was."""
    newer = revision("a", rows=1.5)
    history = versions.history(
        [recorded(A, 1), recorded(B, 2, tags=("blue",)), recorded(newer, 3, tags=("green",))]
    )
    listed = versions.version_statuses(history, B.version)
    assert [(one.version, one.revision, one.deployed, one.tags) for one in listed] == [
        (A.version, 3, False, ["green"]),
        (B.version, 2, True, ["blue"]),
    ]
    assert (listed[0].creation_time, listed[0].last_updated_time) == (at(1), at(3))
    assert [one.steps for one in listed] == [["a"], ["b"]]


def test_nothing_is_deployed_while_nothing_serves() -> None:
    """Undeployed: the versions stay, none is marked."""
    listed = versions.version_statuses(versions.history([recorded(A, 1)]), None)
    assert [one.deployed for one in listed] == [False]


def test_no_more_than_twenty_versions_are_listed() -> None:
    """The oldest are left out."""
    history = versions.history(recorded(revision(f"m{n}"), n) for n in range(1, 24))
    assert [one.revision for one in versions.version_statuses(history, None)] == [*range(23, 3, -1)]


# Forgetting


def test_the_oldest_versions_go_and_what_is_in_use_stays() -> None:
    """Oldest first, so that an interrupted clearing leaves the newest."""
    history = versions.history(recorded(revision(f"m{n}"), n) for n in range(1, 6))
    in_use = {version.revision_id(revision("m2"))}
    gone = versions.surplus(history, keep=2, in_use=in_use)
    assert [one.number for one in gone] == [1, 3]


def test_many_documents_of_one_version_push_no_other_version_out() -> None:
    """Golden rows that were tried again and again must not cost the version to go back to."""
    tried = [recorded(revision("a", rows=n + 0.5), n + 2) for n in range(8)]
    history = versions.history([recorded(B, 1), *tried])
    gone = versions.surplus(history, keep=3, in_use=())
    assert [one.number for one in gone] == [2, 3, 4, 5, 6]
    assert {one.version for one in gone} == {A.version}


def test_a_short_history_loses_nothing() -> None:
    """Nothing is surplus below the limit."""
    assert versions.surplus(versions.history([recorded(A, 1), recorded(B, 2)]), in_use=()) == ()
