"""What of an object in the cluster counts as drift, and what does not."""

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_api import names
from midstream_operator import metadata, quantities
from midstream_operator.drift import differs

DESIRED: dict[str, Any] = metadata.digested(
    {
        "kind": "Deployment",
        "metadata": {"name": "x-engine", "labels": {"midstream.dev/pipeline": "x"}},
        "spec": {
            "replicas": 2,
            "template": {
                "spec": {
                    "automountServiceAccountToken": False,
                    "containers": [
                        {
                            "name": "engine",
                            "image": "engine:1",
                            "args": ["serve", "--port=8080"],
                            "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}},
                            "volumeMounts": [
                                {"name": "data", "mountPath": "/a"},
                                {"name": "data", "mountPath": "/b", "readOnly": True},
                            ],
                        }
                    ],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                }
            },
        },
    }
)


def container(observed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = observed["spec"]["template"]["spec"]["containers"][0]
    return found


def edit_image(observed: dict[str, Any]) -> None:
    container(observed)["image"] = "engine:2"


def drop_argument(observed: dict[str, Any]) -> None:
    container(observed)["args"].pop()


def drop_mount(observed: dict[str, Any]) -> None:
    container(observed)["volumeMounts"].pop()


def make_mount_writable(observed: dict[str, Any]) -> None:
    del container(observed)["volumeMounts"][1]["readOnly"]


def give_token(observed: dict[str, Any]) -> None:
    observed["spec"]["template"]["spec"]["automountServiceAccountToken"] = True


def change_volume(observed: dict[str, Any]) -> None:
    observed["spec"]["template"]["spec"]["volumes"] = [{"name": "tmp", "hostPath": {"path": "/"}}]


def drop_label(observed: dict[str, Any]) -> None:
    observed["metadata"]["labels"] = {}


def change_memory(observed: dict[str, Any]) -> None:
    container(observed)["resources"]["limits"]["memory"] = "1G"


def make_count_a_flag(observed: dict[str, Any]) -> None:
    observed["spec"]["replicas"] = True


POD = "spec.template.spec"
EDITS = {
    edit_image: f"{POD}.containers[engine].image: want engine:1, found engine:2",
    drop_argument: f"{POD}.containers[engine].args: want ['serve', '--port=8080'], found ['serve']",
    drop_mount: f"{POD}.containers[engine].volumeMounts[/b]: "
    "want {'name': 'data', 'mountPath': '/b', 'readOnly': True}, found nothing",
    make_mount_writable: f"{POD}.containers[engine].volumeMounts[/b].readOnly: "
    "want True, found nothing",
    give_token: f"{POD}.automountServiceAccountToken: want False, found True",
    change_volume: f"{POD}.volumes[tmp].emptyDir: want {{}}, found nothing",
    drop_label: "metadata.labels[midstream.dev/pipeline]: want x, found nothing",
    change_memory: f"{POD}.containers[engine].resources.limits.memory: want 1Gi, found 1G",
    make_count_a_flag: "spec.replicas: want 2, found True",
}


@pytest.mark.parametrize(
    ("edit", "said"), EDITS.items(), ids=[each.__name__.replace("_", " ") for each in EDITS]
)
def test_a_hand_edit_is_found_and_named(edit: Any, said: str) -> None:
    """The first field that is not as wanted is named with its path, the wanted value and the found one."""
    observed = copy.deepcopy(DESIRED)
    edit(observed)

    assert said == differs(DESIRED, observed)


def test_an_absent_object_differs() -> None:
    """What is not there is said to be missing."""
    assert "Deployment x-engine is missing" == differs(DESIRED, None)


def test_what_others_add_is_no_drift() -> None:
    """Defaults, status, managed fields, another's annotation and another's container are left alone."""
    observed = copy.deepcopy(DESIRED)
    observed["status"] = {"replicas": 1}
    observed["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    observed["spec"]["progressDeadlineSeconds"] = 600
    pod = observed["spec"]["template"]["spec"]
    pod["containers"].insert(0, {"name": "sidecar", "image": "proxy"})
    pod["containers"][1]["terminationMessagePath"] = "/dev/termination-log"
    pod["containers"][1]["volumeMounts"].reverse()
    pod["dnsPolicy"] = "ClusterFirst"

    assert differs(DESIRED, observed) is None


def test_a_field_that_is_no_longer_wanted_shows_in_the_digest() -> None:
    """When every wanted field is there, an older digest still is a difference; any other difference is named first."""
    observed = copy.deepcopy(DESIRED)
    observed["metadata"]["annotations"][names.DIGEST_ANNOTATION] = "older"
    said = differs(DESIRED, observed)

    assert said is not None
    assert said.startswith(f"metadata.annotations[{names.DIGEST_ANNOTATION}]: want ")

    edit_image(observed)

    assert EDITS[edit_image] == differs(DESIRED, observed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", 1),
        ("1", 1),
        ("0.5", "500m"),
        ("1Gi", "1024Mi"),
        ("1e3", "1k"),
        (2, "2"),
        (0.5, "500m"),
        ("1M", "1000k"),
    ],
)
def test_one_amount_in_two_spellings_is_no_drift(one: object, other: object) -> None:
    """Requests and limits are compared by value, in both directions."""

    def made(amount: object) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": amount}}, "metadata": {"name": "x"}, "kind": "K"}

    assert differs(made(one), made(other)) is None
    assert differs(made(other), made(one)) is None


def test_a_label_is_not_an_amount() -> None:
    """Outside requests and limits two spellings are two values."""
    one = {"kind": "K", "metadata": {"name": "x", "labels": {"a": "1"}}}
    other = {"kind": "K", "metadata": {"name": "x", "labels": {"a": "1000m"}}}

    assert "metadata.labels.a: want 1, found 1000m" == differs(one, other)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1Q", "--1", "1e", "mi", "1.2.3", "1e9999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """The message shows the text and a right one."""
    with pytest.raises(ValueError, match="is not a quantity; write one such as 250m, 1 or 512Mi"):
        quantities.parse(text)


# Objects as they are written in JSON, with keyed lists and with plain ones.
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
keys = st.sampled_from(["a", "b", "spec", "requests", "x/y", "metadata", "type"])


def _extend(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keyed = st.lists(
        st.builds(
            lambda name, more: {**more, "name": name},
            st.sampled_from("pqrs"),
            st.dictionaries(keys, values, max_size=2),
        ),
        unique_by=lambda entry: entry["name"],
        max_size=3,
    )
    return st.lists(values, max_size=3) | keyed | st.dictionaries(keys, values, max_size=3)


values = st.recursive(scalars, _extend, max_leaves=12)
objects = st.builds(
    lambda spec: {"kind": "K", "metadata": {"name": "x"}, "spec": spec},
    st.dictionaries(keys, values, max_size=4),
)


@given(objects)
def test_an_object_is_as_wanted_when_it_is_equal(desired: dict[str, Any]) -> None:
    """Nothing differs from itself, also not after a way through JSON."""
    assert differs(desired, json.loads(json.dumps(desired))) is None


def _with_more(value: Any) -> Any:
    """Add a field to every object in it, and turn every keyed list round."""
    if isinstance(value, dict):
        return {"added": {"by": "server"}, **{key: _with_more(each) for key, each in value.items()}}
    if isinstance(value, list):
        more = [_with_more(each) for each in value]
        entries = [each for each in value if isinstance(each, dict)]
        keyed = len(entries) == len(value) > 0 and all("name" in each for each in entries)
        return [*reversed(more), {"name": "of another"}] if keyed else more
    return value


@given(objects)
def test_what_is_added_is_never_drift(desired: dict[str, Any]) -> None:
    """Fields that nobody asked for, and entries of keyed lists in another order, are passed over."""
    assert differs(desired, _with_more(desired)) is None


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in _leaves(each, (*path, key))]
    if isinstance(value, list):
        return [found for at, each in enumerate(value) for found in _leaves(each, (*path, at))]
    return [path]


@given(objects, st.data())
def test_any_changed_value_is_drift(desired: dict[str, Any], data: st.DataObject) -> None:
    """Whichever value is changed, something differs."""
    leaves = [path for path in _leaves(desired["spec"]) if path]
    if not leaves:
        return
    path = data.draw(st.sampled_from(leaves))
    observed = copy.deepcopy(desired)
    place = observed["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "another value"

    assert differs(desired, observed) is not None


@given(
    st.integers(0, 10**6),
    st.sampled_from([("", "m", 1000), ("Ki", "", 1024), ("Gi", "Mi", 1024), ("M", "k", 1000)]),
)
def test_quantities_are_exact(number: int, units: tuple[str, str, int]) -> None:
    """A number of a large unit is that many times the small one, and one more is not."""
    large, small, factor = units

    assert quantities.same(f"{number}{large}", f"{number * factor}{small}")
    assert not quantities.same(f"{number}{large}", f"{number * factor + 1}{small}")
    assert math.isclose(float(quantities.parse(f"{number}m")), number / 1000)
