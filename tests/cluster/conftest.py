"""A real cluster: the one that KUBECONFIG names, with the operator installed by Helm from this tree.

Needs `kubectl`, `helm`, images on the nodes, and a registry that both this machine and the pods reach, named in
MIDSTREAM_TEST_REGISTRY (`host:port`, plain HTTP). `make test-cluster` sees to the images.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

# Imported now: its pytest plugin would do it at the very end, and Python 3.11 cannot parse a module while the garbage
# collector reports something (`AST constructor recursion depth mismatch`).
import hypothesis  # noqa: F401
import pytest

from kit import wire
from kit.cluster import install, kubectl, spaces
from kit.cluster.pods import PATH, LoadPod
from kit.cluster.shelf import Model, Shelf
from kit.cluster.spaces import Space
from kit.swapping import distinct_rows

HERE = Path(__file__).parent
_SECONDS = 300  # one test; what hangs is ended, what is slow is not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a failed test what the cluster says."""
    report = yield
    space = getattr(item, "funcargs", {}).get("space")
    if report.failed and report.when == "call" and isinstance(space, Space):
        report.sections.append((f"namespace {space.name}", space.describe()))
        report.sections.append(("operator", install.logs()))
    return report


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The file that leads to the cluster."""
    file = os.environ.get("KUBECONFIG")
    if not file:
        pytest.skip("needs a cluster: set KUBECONFIG")
    return file


@pytest.fixture
def namespace(kubeconfig: str) -> Iterator[str]:  # noqa: ARG001  # kubectl reads the environment
    """A namespace that is gone afterwards, for tests that need no operator in the cluster."""
    name = f"watch-{uuid.uuid4().hex[:8]}"
    kubectl.kubectl("create", "namespace", name)
    yield name
    kubectl.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def cluster(kubeconfig: str) -> None:  # noqa: ARG001  # kubectl reads the environment
    """A cluster that answers, and the tools to talk to it."""
    for tool in ("kubectl", "helm"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} on the PATH")
    kubectl.kubectl("get", "--raw", "/readyz", seconds=20)


@pytest.fixture(scope="session")
def operator(cluster: None) -> None:  # noqa: ARG001 - first of all
    """The operator of this tree, ready."""
    install.install()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A registry to push models to."""
    registry = os.environ.get("MIDSTREAM_TEST_REGISTRY")
    if not registry:
        pytest.skip(
            "needs a registry that this machine and the pods reach: set MIDSTREAM_TEST_REGISTRY=host:port"
        )
    return Shelf(registry, tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="session")
def load_pod(cluster: None) -> Iterator[LoadPod]:  # noqa: ARG001 - first of all
    """A pod that asks."""
    with spaces.namespace(f"load-{uuid.uuid4().hex[:8]}") as name:
        yield LoadPod(name)


@pytest.fixture
def space(operator: None, load_pod: LoadPod) -> Iterator[Space]:  # noqa: ARG001 - first of all
    """A namespace of the test's own."""
    with spaces.space(load_pod) as made:
        yield made


@pytest.fixture(scope="session")
def rf(shelf: Shelf) -> Model:
    return shelf.example("rf")


@pytest.fixture(scope="session")
def gbr(shelf: Shelf) -> Model:
    return shelf.example("gbr")


@pytest.fixture(scope="session")
def xgb(shelf: Shelf) -> Model:
    return shelf.example("xgb")


@pytest.fixture
def push(shelf: Shelf, tmp_path: Path) -> Callable[[Callable[..., Path], str], Model]:
    """Write a model of the kit, and push it under a name."""

    def pushed(write: Callable[..., Path], name: str, *arguments: object) -> Model:
        return shelf.model(write(tmp_path / f"{name}.onnx", *arguments), name)

    return pushed


@pytest.fixture(scope="session")
def requests() -> list[wire.Request]:
    """Requests on which every two of the example's models differ: single rows, and all of them at once."""
    rows = distinct_rows()
    return [*(wire.records(PATH, [row]) for row in rows), wire.records(PATH, rows)]
