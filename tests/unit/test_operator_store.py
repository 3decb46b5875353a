"""What was last heard: news in any order, lists between them, and what is a reason to look at a pipeline."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import virtual
from midstream_operator.cluster import CONFIG_MAP, DEPLOYMENT, PIPELINE, POD, Kind
from midstream_operator.observed import Object
from midstream_operator.queue import Key, Queue
from midstream_operator.store import Change, Scope, Store
from midstream_operator.watch import Feed, concerned

PODS = Scope(POD, None)
LABELS = {"midstream.dev/pipeline": "one", "app.kubernetes.io/managed-by": "midstream"}


def thing(version: int, name: str = "p", kind: Kind = POD, **more: Any) -> Object:
    """Make an object of pipeline `one` in namespace `here`."""
    metadata = {
        "name": name,
        "namespace": "here",
        "uid": "u",
        "labels": LABELS,
        "resourceVersion": str(version),
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": metadata | more.pop("metadata", {}),
        **more,
    }


def store() -> Store:
    return Store([PODS, Scope(PIPELINE, None)])


def names(of: Store) -> list[str]:
    return [each["metadata"]["name"] for each in of.owned(POD, "here", "one")]


def test_owned_objects_are_found_by_their_pipeline() -> None:
    """In the order of their names, whatever order they came in."""
    held = store()
    for name in ("b", "a", "c"):
        held.put(POD, thing(5, name))
    assert names(held) == ["a", "b", "c"]
    assert held.owned(POD, "elsewhere", "one") == []
    held.discard(POD, "here", "b")
    assert names(held) == ["a", "c"]


def test_an_object_whose_label_changes_moves() -> None:
    """It belongs to one pipeline at a time."""
    held = store()
    held.put(POD, thing(5))
    held.put(POD, thing(6, metadata={"labels": {"midstream.dev/pipeline": "two"}}))
    assert names(held) == []
    assert len(held.owned(POD, "here", "two")) == 1


def test_older_news_never_replaces_newer() -> None:
    """The answer to our own write may overtake the watch."""
    held = store()
    assert held.put(POD, thing(7)) is not None
    assert held.put(POD, thing(6)) is None
    assert held.put(POD, thing(7)) is None
    assert held.remove(POD, thing(6)) is None
    found = held.get(POD, "here", "p")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "7"


def test_what_was_deleted_does_not_come_back_by_an_old_word() -> None:
    """Neither by a late event nor by a list that is older than the deletion."""
    held = store()
    held.put(POD, thing(5))
    assert held.remove(POD, thing(9)) is not None
    assert held.put(POD, thing(8)) is None
    assert held.listed(PODS, [thing(8)], "8") == []
    assert held.put(POD, thing(10)) is not None, "made again after the deletion"


def test_a_list_finds_what_was_missed() -> None:
    """Made, changed and deleted while nobody listened."""
    held = store()
    held.listed(PODS, [thing(3, "changed"), thing(4, "deleted"), thing(5, "same")], "5")
    changes = held.listed(PODS, [thing(5, "same"), thing(6, "changed"), thing(7, "made")], "9")
    told = {
        (change.after or change.before or {})["metadata"]["name"]: (
            change.before is not None,
            change.after is not None,
        )
        for change in changes
    }
    assert told == {"changed": (True, True), "made": (False, True), "deleted": (True, False)}


def test_an_old_list_does_not_undo_what_came_since() -> None:
    """An object that the watch told of after the list was made is not taken for deleted."""
    held = store()
    held.put(POD, thing(12, "made since"))
    assert held.listed(PODS, [], "10") == []
    assert names(held) == ["made since"]


def test_what_a_list_did_not_have_stays_gone() -> None:
    """A watch that lags behind the list cannot bring back what the list no longer had."""
    held = store()
    held.put(POD, thing(5))
    held.listed(PODS, [], "20")
    assert held.put(POD, thing(15)) is None
    assert held.put(POD, thing(21)) is not None


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    """Each namespace has its own list."""
    held = Store([Scope(POD, "here"), Scope(POD, "there")])
    held.listed(Scope(POD, "there"), [thing(5, metadata={"namespace": "there"})], "5")
    held.listed(Scope(POD, "here"), [], "9")
    assert held.get(POD, "there", "p") is not None
    assert held.put(POD, thing(7, "x", metadata={"namespace": "there"})) is not None


def test_a_cluster_that_was_restored_is_believed() -> None:
    """Its resource versions begin anew, lower than what is known."""
    held = store()
    held.listed(PODS, [thing(500, "a"), thing(600, "b")], "600")
    held.remove(POD, thing(700, "c"))
    changes = held.listed(PODS, [thing(50, "a"), thing(51, "c")], "60")
    assert len(changes) == 3
    assert names(held) == ["a", "c"]
    assert held.put(POD, thing(61, "a")) is not None


def test_it_knows_when_everything_has_been_listed() -> None:
    """The first look must not see half of the cluster."""

    async def run() -> None:
        held = store()
        waiting = asyncio.create_task(held.synced())
        assert [scope.kind for scope in held.missing()] == [PIPELINE, POD]
        held.listed(PODS, [], "1")
        await asyncio.sleep(0)
        assert not waiting.done()
        held.listed(Scope(PIPELINE, None), [], "1")
        await waiting
        assert held.missing() == []
        assert held.synced_now()

    virtual.run(run())


PIPE = thing(1, "one", PIPELINE, metadata={"generation": 1, "labels": {}}, spec={}, status={})
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
UNREADY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
PROBED = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": "now"}],
}

CASES: dict[str, tuple[Kind, Object | None, Object | None, bool]] = {
    "a new pipeline": (PIPELINE, None, PIPE, True),
    "a deleted pipeline": (PIPELINE, PIPE, None, True),
    "a status is our own writing": (PIPELINE, PIPE, {**PIPE, "status": {"x": 1}}, False),
    "a new generation": (
        PIPELINE,
        PIPE,
        {**PIPE, "metadata": {**PIPE["metadata"], "generation": 2}},
        True,
    ),
    "an annotation of a pipeline": (
        PIPELINE,
        PIPE,
        {**PIPE, "metadata": {**PIPE["metadata"], "annotations": {"midstream.dev/retry": "1"}}},
        True,
    ),
    "a pipeline on its way out": (
        PIPELINE,
        PIPE,
        {**PIPE, "metadata": {**PIPE["metadata"], "deletionTimestamp": "now"}},
        True,
    ),
    "a pod becomes ready": (POD, thing(1, status=UNREADY), thing(2, status=READY), True),
    "a pod is probed": (POD, thing(1, status=READY), thing(2, status=PROBED), False),
    "a pod is told something": (
        POD,
        thing(1),
        thing(2, metadata={"annotations": {"midstream.dev/assignment": "{}"}}),
        True,
    ),
    "a pod goes": (POD, thing(1), None, True),
    "a deployment has more ready replicas": (
        DEPLOYMENT,
        thing(1, kind=DEPLOYMENT, status={"readyReplicas": 1}),
        thing(2, kind=DEPLOYMENT, status={"readyReplicas": 2}),
        True,
    ),
    "a deployment says when it last looked": (
        DEPLOYMENT,
        thing(1, kind=DEPLOYMENT, status={"conditions": [{"type": "A", "lastUpdateTime": "1"}]}),
        thing(2, kind=DEPLOYMENT, status={"conditions": [{"type": "A", "lastUpdateTime": "2"}]}),
        False,
    ),
    "a config map is edited by hand": (
        CONFIG_MAP,
        thing(1, kind=CONFIG_MAP, data={"a": "1"}),
        thing(2, kind=CONFIG_MAP, data={"a": "2"}),
        True,
    ),
    "only the resource version is new": (
        CONFIG_MAP,
        thing(1, kind=CONFIG_MAP, data={"a": "1"}),
        thing(2, kind=CONFIG_MAP, data={"a": "1"}),
        False,
    ),
    "an object of no pipeline": (POD, None, thing(1, metadata={"labels": {}}), False),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_a_reason_to_look(case: str) -> None:
    """Only what is used counts as a change."""
    kind, before, after, reason = CASES[case]
    expected = {Key("here", "one")} if reason else set()
    assert concerned(Change(kind, before, after)) == expected


def test_an_object_that_moves_concerns_both_pipelines() -> None:
    """The one that lost it, too."""
    moved = thing(2, metadata={"labels": {"midstream.dev/pipeline": "two"}})
    assert concerned(Change(POD, thing(1), moved)) == {Key("here", "one"), Key("here", "two")}


def test_the_answer_to_a_write_is_news() -> None:
    """The next look sees what the last one wrote; objects of others are left alone."""

    async def run() -> None:
        held, queue = store(), Queue[Key]()
        feed = Feed(held, queue)
        feed.written(thing(5))
        feed.written(thing(6, "foreign", metadata={"labels": {}}))
        feed.written(thing(7, "unwatched", CONFIG_MAP))
        assert names(held) == ["p"]
        assert held.keys(POD) == [Key("here", "p")]
        assert queue.depth() == 1

    virtual.run(run())


@settings(max_examples=200)
@given(st.data())
def test_in_whatever_order_news_comes_the_end_is_the_truth(data: st.DataObject) -> None:
    """A watch that delivers all in its own order and lists at any moment end in what the cluster holds."""
    history = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=12)
    )
    truth: dict[str, int] = {}
    events: list[tuple[str, int, bool]] = []
    moments: list[tuple[int, dict[str, int]]] = [(0, {})]
    for version, (name, there) in enumerate(history, start=1):
        if there:
            truth[name] = version
        elif name not in truth:
            continue
        else:
            del truth[name]
        events.append((name, version, there))
        moments.append((version, dict(truth)))
    # Two ears hear all events in order, and lists come in between, each at least as new as the one before.
    held = store()
    ears = [list(events), list(events)]
    lists = data.draw(st.lists(st.sampled_from(range(len(moments))), max_size=4).map(sorted))
    while any(ears) or lists:
        mouths = [ear for ear in ears if ear]
        which = data.draw(st.integers(0, len(mouths) + bool(lists) - 1))
        if which == len(mouths):
            version, objects = moments[lists.pop(0)]
            held.listed(PODS, [thing(when, name) for name, when in objects.items()], str(version))
        else:
            name, version, there = mouths[which].pop(0)
            if there:
                held.put(POD, thing(version, name))
            else:
                held.remove(POD, thing(version, name))
    assert names(held) == sorted(truth)
    assert {
        each["metadata"]["name"]: int(each["metadata"]["resourceVersion"])
        for each in held.owned(POD, "here", "one")
    } == truth
