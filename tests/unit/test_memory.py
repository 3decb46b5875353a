"""The limit over a process, read from trees of files as the kernel shows them, and whether a model fits."""

from pathlib import Path

import pytest

from midstream_engine import memory
from midstream_engine.errors import LoadError

NO_LIMIT_V1 = str((1 << 63) - 4096)
MIB = 1 << 20


class Tree:
    """A made-up /sys/fs/cgroup and /proc/self/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.membership = folder / "membership"

    def put(self, path: str, value: str) -> None:
        """Write one file of the tree."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{value}\n")

    def limit(self) -> int | None:
        """What the engine makes of it."""
        return memory.cgroup_limit(self.root, self.membership)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty tree."""
    return Tree(tmp_path)


def test_v2_limit_of_the_own_group(tree: Tree) -> None:
    """The file memory.max of the group that the process is in."""
    tree.membership.write_text("0::/pods/engine\n")
    tree.put("pods/engine/memory.max", "536870912")
    assert 512 * MIB == tree.limit()


def test_v2_nested_groups_the_lowest_limit_counts(tree: Tree) -> None:
    """A parent's lower limit holds for its children, too."""
    tree.membership.write_text("0::/pods/engine/worker\n")
    tree.put("pods/engine/worker/memory.max", "max")
    tree.put("pods/engine/memory.max", str(900 * MIB))
    tree.put("pods/memory.max", str(300 * MIB))
    assert 300 * MIB == tree.limit()


def test_v2_max_everywhere_is_no_limit(tree: Tree) -> None:
    """`max` is the kernel's word for no limit."""
    tree.membership.write_text("0::/a/b\n")
    for path in ("a/b/memory.max", "a/memory.max"):
        tree.put(path, "max")
    assert tree.limit() is None


def test_v2_inside_a_container_the_root_is_the_own_group(tree: Tree) -> None:
    """There the path may be the host's, which does not exist: the mounted root is ours."""
    tree.membership.write_text("0::/kubepods/burstable/pod-1/container\n")
    tree.put("memory.max", str(256 * MIB))
    assert 256 * MIB == tree.limit()


def test_v2_with_a_namespace_of_its_own(tree: Tree) -> None:
    """Then the path is `/`."""
    tree.membership.write_text("0::/\n")
    tree.put("memory.max", str(128 * MIB))
    assert 128 * MIB == tree.limit()


def test_v1_limit_of_the_memory_controller(tree: Tree) -> None:
    """Other controllers' lines say nothing about memory."""
    tree.membership.write_text("12:cpu,cpuacct:/other\n5:memory:/docker/1\n1:name=systemd:/x\n")
    tree.put("memory/docker/1/memory.limit_in_bytes", str(200 * MIB))
    tree.put("memory/memory.limit_in_bytes", NO_LIMIT_V1)
    tree.put("cpu,cpuacct/other/memory.limit_in_bytes", "1")
    assert 200 * MIB == tree.limit()


def test_v1_without_a_limit(tree: Tree) -> None:
    """A number near 2**63 means no limit."""
    tree.membership.write_text("5:memory:/docker/1\n")
    tree.put("memory/docker/1/memory.limit_in_bytes", NO_LIMIT_V1)
    assert tree.limit() is None


def test_v1_inside_a_container(tree: Tree) -> None:
    """The host's path does not exist there: the controller's root is ours."""
    tree.membership.write_text("5:memory:/kubepods/pod-1/container\n0::/\n")
    tree.put("memory/memory.limit_in_bytes", str(64 * MIB))
    assert 64 * MIB == tree.limit()


@pytest.mark.parametrize("content", [None, "", "nonsense\n", "0::\n", "a:b\n", "5:memory\n"])
def test_without_a_readable_group_there_is_no_limit(tree: Tree, content: str | None) -> None:
    """No cgroup file system, or lines that nobody has seen yet: no limit, and no error."""
    if content is not None:
        tree.membership.write_text(content)
    assert tree.limit() is None


def test_an_unreadable_number_is_passed_over(tree: Tree) -> None:
    """The other limits still count."""
    tree.membership.write_text("0::/a/b\n")
    tree.put("a/b/memory.max", "many")
    tree.put("a/memory.max", str(100 * MIB))
    assert 100 * MIB == tree.limit()


def test_a_model_that_fits_beside_what_is_resident() -> None:
    """The limit is compared with what is resident and 2.2 times the file."""
    memory.check_fits(10 * MIB, memory.resident() + 200 * MIB)
    memory.check_fits(10 * MIB, None)


def test_a_model_that_does_not_fit_under_the_limit_is_refused_for_good() -> None:
    """The message has the file's size, what it needs, what is in use and the limit."""
    with pytest.raises(LoadError) as caught:
        memory.check_fits(100_000_000, memory.resident() + 100_000_000)
    assert ("ModelDoesNotFit", False) == (caught.value.reason, caught.value.transient)
    assert "a model file of 100.0 MB needs about 220.0 MB" in caught.value.message
    assert "raise the limit" in caught.value.message


def test_a_model_that_is_larger_than_the_free_memory_may_fit_later() -> None:
    """Without a limit the machine's free memory counts, and that changes."""
    with pytest.raises(LoadError) as caught:
        memory.check_fits(1 << 50, None)
    assert ("ModelDoesNotFit", True) == (caught.value.reason, caught.value.transient)


def test_resident_memory_grows_with_what_is_touched() -> None:
    """It is measured in bytes."""
    before = memory.resident()
    block = bytearray(b"x") * (64 * MIB)
    assert memory.resident() - before > 48 * MIB
    assert 64 * MIB == len(block)


@pytest.mark.parametrize(
    ("given", "tunables"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_large_pages_are_asked_for_unless_somebody_decided_otherwise(
    given: dict[str, str], tunables: str
) -> None:
    """Other settings of the C library, and other variables, stay as they are."""
    found = memory.environment({"PATH": "/bin", **given})
    assert {"PATH": "/bin", "GLIBC_TUNABLES": tunables} == found
