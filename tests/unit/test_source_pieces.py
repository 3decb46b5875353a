"""A look at the config folder gives way between its pieces, and still sees one state of it."""

import asyncio
from pathlib import Path

import pytest

from kit.folder import ConfigFolder, document, entry
from midstream_api.engineconfig import ResolvedModel, RevisionDocument
from midstream_engine.revisions.manager import Wish
from midstream_engine.revisions.source import Source


def revision(letter: str) -> RevisionDocument:
    """A revision whose one model has a SHA-256 of one letter."""
    return document(
        ResolvedModel(name=f"rf-{letter}", uri=f"file:///{letter}", sha256=letter * 64, size=1)
    )


A, B, C = (revision(letter) for letter in "abc")
ID_A, ID_B, ID_C = (entry(each).revision for each in (A, B, C))


def test_others_have_their_turn_while_a_folder_is_looked_at(tmp_path: Path) -> None:
    """A look gives way between its pieces: at least once for each file that it reads."""
    folder = ConfigFolder(tmp_path / "config")
    folder.write(A, B)
    wishes: list[Wish] = []
    source = Source(folder.path, wishes.append, lambda _: None)

    async def turns() -> int:
        running = asyncio.create_task(source.run())
        count = 0
        while not wishes:
            await asyncio.sleep(0)
            count += 1
        running.cancel()
        await asyncio.wait((running,))
        return count

    assert asyncio.run(turns()) > len(list(folder.path.iterdir()))


@pytest.mark.parametrize("pieces", range(12))
def test_a_change_in_the_middle_of_a_look_is_obeyed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """Whenever the folder changes, each wish is one state of it, and a poke during a look is heard after it."""
    monkeypatch.setattr("midstream_engine.revisions.source.POLL_SECONDS", 3600.0)
    folder = ConfigFolder(tmp_path / "config")
    folder.write(A)
    wishes: list[Wish] = []
    obeyed = asyncio.Event()

    def accept(wish: Wish) -> None:
        wishes.append(wish)
        if wish.sequence == 2:
            obeyed.set()

    async def change() -> None:
        source = Source(folder.path, accept, lambda _: None)
        running = asyncio.create_task(source.run())
        for _ in range(pieces):
            await asyncio.sleep(0)
        folder.write(B, C, sequence=2)
        source.poke()
        async with asyncio.timeout(10):
            await obeyed.wait()
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(change())
    states = {1: {ID_A}, 2: {ID_B, ID_C}}
    for wish in wishes:
        assert states[wish.sequence] == wish.documents.keys()
        assert states[wish.sequence] == set(wish.goal.hold)
