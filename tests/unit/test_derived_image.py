"""The derived image in `docs/python-models.md` fits the engine's own: base, paths, user, and the manifest's field."""

import re
import shlex
from pathlib import Path

import yaml

from midstream_api.deployment import Deployment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python-models.md").read_text()
SECTION = PAGE.partition("\n## Further packages\n")[2]
OURS = (ROOT / "Dockerfile").read_text()


def block(language: str) -> str:
    """What the section shows in a language."""
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert found, language
    return found[1]


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and arguments of each line of a Dockerfile, continued lines as one."""
    whole = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in whole.splitlines() if line.strip()]
    return [(keyword, rest.strip()) for keyword, rest in lines]


DERIVED = instructions(block("dockerfile"))


def stage(name: str) -> list[tuple[str, str]]:
    """What the engine's Dockerfile does in a stage, and in those that it is built on."""
    found: list[tuple[str, str]] = []
    inside = False
    for keyword, rest in instructions(OURS):
        if keyword == "FROM":
            base, _, own = rest.partition(" AS ")
            inside = own == name
            if inside and not base.startswith("$"):
                found += stage(base)
        elif inside:
            found.append((keyword, rest))
    assert found, name
    return found


def test_it_is_built_on_the_engine() -> None:
    """The image has the name of a target of our Dockerfile, and a version."""
    keyword, image = DERIVED[0]
    assert keyword == "FROM"
    repository, _, tag = image.rpartition(":")
    assert (repository.rpartition("/")[2], tag != "") == ("engine", True)
    assert stage("engine")


def test_it_installs_for_the_interpreter_that_serves() -> None:
    """Into the environment that the image has, whose `bin` comes first on its path; with the pip of the base."""
    (environment,) = (
        words[-1]
        for k, rest in stage("builder")
        if (words := shlex.split(rest))[:3] == ["python", "-m", "venv"]
    )
    assert ("COPY", f"--from=engine-libraries {environment} {environment}") in stage("engine")
    assert any(k == "ENV" and f"PATH={environment}/bin:" in rest for k, rest in stage("engine"))
    (commands,) = (rest for keyword, rest in DERIVED if keyword == "RUN")
    for command in commands.split("&&"):
        words = shlex.split(command)
        assert words[:3] == ["pip", "--python", f"{environment}/bin/python"]
        assert words[3] in {"freeze", "install"}


def test_each_file_is_there_when_it_is_read() -> None:
    """What is copied in or written first; the engine's own versions hold."""
    (copied,) = (rest.split() for keyword, rest in DERIVED if keyword == "COPY")
    (commands,) = (rest for keyword, rest in DERIVED if keyword == "RUN")
    freeze, install = (shlex.split(each) for each in commands.split("&&"))
    written = freeze[freeze.index(">") + 1]
    assert install[install.index("-r") + 1] == copied[1] + copied[0]
    assert install[install.index("-c") + 1] == written


def test_it_ends_as_the_engine_s_user() -> None:
    """Root only installs."""
    own = [rest for keyword, rest in stage("engine") if keyword == "USER"]
    users = [rest for keyword, rest in DERIVED if keyword == "USER"]
    assert users == ["0", own[-1]]
    order = [keyword for keyword, _ in DERIVED]
    assert order.index("USER") < order.index("RUN") < len(order) - 1 == order.index("USER", 2)


def test_the_manifest_names_what_is_built() -> None:
    """The same image, at a field that a Pipeline has."""
    built = shlex.split(block("console").removeprefix("$ "))
    deployment = Deployment.model_validate(yaml.safe_load(block("yaml"))["spec"]["deployment"])
    assert deployment.engine.image == built[built.index("-t") + 1]
    assert built[-3:-1] == ["docker", "push"]
    assert built[-1] == deployment.engine.image
