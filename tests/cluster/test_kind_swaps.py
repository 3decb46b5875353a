"""Every kind of step is swapped under load: in the same pods, with nothing lost, nothing mixed, and every key kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from kit.cluster import kinds
from kit.cluster.kinds import KEY, Priced, asked, manifest, pushed
from kit.cluster.kubectl import Object
from kit.cluster.shelf import Shelf
from kit.cluster.spaces import Space

FIRST = Priced(weights={"control": 5, "challenger": 7})
TURNS = {
    "code in the manifest": [replace(FIRST, factor=3)],
    "code that is pushed": [replace(FIRST, offset=2000)],
    "a variant of the split": [replace(FIRST, weights={"control": 5, "challenger": 11})],
    "everything at once": [
        Priced(factor=3, weights={"control": 11, "challenger": 13}, offset=2000)
    ],
}


@pytest.mark.parametrize("what", TURNS)
@pytest.mark.parametrize("deployment", [{}, {"sidekick": {}}], ids=["one container", "sidekick"])
def test_a_kind_is_swapped_in_the_same_pods_without_losing_a_request(
    space: Space, shelf: Shelf, tmp_path: Path, what: str, deployment: Object
) -> None:
    """There and back again with 2 replicas: 0 failed, 0 mixed, the same pods and processes' containers, sticky keys."""
    turns = [FIRST, *TURNS[what]]
    documents = [
        pushed(
            shelf,
            tmp_path,
            manifest(each.steps(tmp_path, hashKey=KEY), deployment={"replicas": 2, **deployment}),
        )
        for each in turns
    ]
    space.apply(documents[0])
    seen = space.until_ready()
    engines, template = space.identities(), space.template()
    with asked(space, kinds.keyed(), rate=60) as load:
        load.serves(seen, FIRST)
        for number in (1, 0, 1):
            space.apply(documents[number])
            load.serves(space.until_ready(), turns[number])
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert len(verdict.versions) == 2, str(verdict)
    assert len(engines) == 2
    assert space.identities() == engines
    assert space.template() == template
    assert verdict.answers > 100
