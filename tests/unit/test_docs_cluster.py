"""The pages on clusters say what chart, operator, load balancer and command line really have."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from midstream.cli import parser
from midstream_api import names
from midstream_api.pipeline import Pipeline, PipelineSpec
from midstream_api.status import MAX_VERSIONS, StageTimes
from midstream_operator import envoy, main, metrics, rollout
from midstream_operator.conditions import FAILURES, Reason
from midstream_operator.metadata import Owner
from midstream_operator.objects import Images, engine, load_balancer
from midstream_operator.observed import Object

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "midstream"
PAGES = {
    name: (ROOT / "docs" / name).read_text()
    for name in ("cluster.md", "swap.md", "gitops.md", "errors.md", "architecture.md")
}
CLUSTER, SWAP, GITOPS = PAGES["cluster.md"], PAGES["swap.md"], PAGES["gitops.md"]
BALANCER = envoy.Envoy(engines=(("house-price-engine", names.ENGINE_PORT),), memory=512 << 20)
SPEC = PipelineSpec.model_validate({"steps": [], "deployed": False})
LINKING = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ]
)


def section(page: str, title: str) -> str:
    """The text below a title, as far as the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def cells(text: str, column: int = 0) -> set[str]:
    """What stands in backquotes in one column of a section's table."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row[column])}


def paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every value of the chart as `--set` names it, but for what differs from image to image only."""
    whole = {"resources", "images.operator", "images.engine", "images.engineLB"}
    for key, value in values.items():
        path = prefix + key
        if isinstance(value, dict) and value and path not in whole:
            yield from paths(value, f"{path}.")
        else:
            yield path


def anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_every_value_of_the_chart_is_explained() -> None:
    """The table has the chart's values and no other."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = section(CLUSTER, "Install")
    assert cells(table) == set(paths(values))


def test_every_right_is_explained() -> None:
    """The table of rights has the resources and verbs of the chart's rules."""
    text = (CHART / "templates" / "rbac.yaml").read_text()
    found = re.search(r'define "midstream.rules" -}}\n(.*?){{- end -}}', text, re.DOTALL)
    assert found
    rules = {
        resource: ", ".join(rule["verbs"])
        for rule in yaml.safe_load(found[1])
        for resource in rule["resources"]
    }
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section(CLUSTER, "What the operator may do").splitlines()
        if line.startswith("| `")
    ]
    told = {resource: row[1] for row in rows for resource in re.findall(r"`([^`]+)`", row[0])}
    assert told == rules


def test_the_stages_are_those_of_the_status() -> None:
    """In their order."""
    told = re.findall(r"^\| `(\w+)` \|", section(SWAP, "Stages"), re.MULTILINE)
    assert told == list(StageTimes.model_fields)


def test_what_envoy_answers_itself_is_explained() -> None:
    """The table has each code with its reason, and no other."""
    refusals: Object = envoy.bootstrap(BALANCER)["static_resources"]["listeners"][0]
    http = refusals["filter_chains"][0]["filters"][0]["typed_config"]["local_reply_config"]
    rendered = {
        str(each["filter"]["status_code_filter"]["comparison"]["value"]["default_value"]): each[
            "body_format_override"
        ]["json_format"]["reason"]
        for each in http["mappers"]
    }
    rendered["others"] = http["body_format"]["json_format"]["reason"]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section(PAGES["errors.md"], "The load balancer").splitlines()
        if re.match(r"\| (\d|others)", line)
    ]
    told = {code: row[1].strip("`") for row in rows for code in row[0].split(", ")}
    assert told == rendered


def test_metrics_exist() -> None:
    """Every metric of the operator that the pages name is made by it."""
    source = "".join(Path(str(module.__file__)).read_text() for module in (metrics, main))
    made = set(re.findall(r'"midstream_(\w+)"', source)) | set(
        re.findall(r'gauge\("(\w+)"', source)
    )
    made |= set(re.findall(r'^ +"(\w+_seconds)",$', source, re.MULTILINE))
    named = re.findall(r"`midstream_(\w+)", section(CLUSTER, "Health and metrics") + SWAP)
    assert len(named) > 8
    for name in named:
        assert name.removesuffix("_total") in made, name


def test_numbers_are_those_of_the_code() -> None:
    """Times, limits and ports that the pages give."""
    images = Images("engine", "engine-lb")
    made = engine.deployment(Owner("house-price", "default", "1"), SPEC, images)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert f"{wait} s before it is told to end" in CLUSTER
    assert f"at most {names.MAX_CONFIG >> 10} KiB" in CLUSTER
    assert MAX_VERSIONS == 20
    assert "Twenty versions are kept" in CLUSTER
    assert f"port {names.ENGINE_LB_PORT}" in CLUSTER
    assert f"| engine | port {names.MANAGEMENT_PORT} |" in CLUSTER
    assert f"| load balancer | port {load_balancer.HEALTH_PORT} |" in CLUSTER
    assert f"after {rollout.NUDGE_SECONDS} s" in SWAP
    assert f"up to {rollout.NUDGE_LIMIT_SECONDS:.0f} s" in SWAP
    assert f"every {rollout.POLL_SECONDS * 1e3:.0f} ms" in SWAP
    errors = section(PAGES["errors.md"], "The load balancer")
    (host,) = envoy.routes()["resources"][0]["virtual_hosts"]
    assert f"{host['retry_policy']['per_try_idle_timeout'][:-1]} s of silence" in errors
    assert f"{host['routes'][0]['route']['timeout'][:-1]} s in all" in errors


@pytest.mark.parametrize("page", ["cluster.md", "gitops.md"])
def test_commands_are_there(page: str) -> None:
    """Targets of make, subcommands of midstream, files of this repository and names that are shown exist."""
    text = PAGES[page]
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:\$ |`)make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"\$ midstream (\w+)", text):
        assert re.search(rf"^ +{command} ", parser().format_help(), re.MULTILINE), command
    for path in re.findall(r"(?:examples|charts|tests)/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path


def test_names_on_the_pages_are_the_products() -> None:
    """Annotations, the label, and the key under which Argo CD wants the health check."""
    assert f'{names.RETRY_ANNOTATION}="$(date +%s)"' in CLUSTER
    assert f"{names.PIPELINE_LABEL}=house-price" in CLUSTER
    template = (CHART / "templates" / "argocd-health.yaml").read_text()
    (key,) = re.findall(r"^  (resource\.customizations\.\S+): \|", template, re.MULTILINE)
    assert f"`{key}`" in GITOPS


def test_reasons_on_the_pages_are_known() -> None:
    """What a page calls a reason is in one of the tables of reasons."""
    tables = (ROOT / "docs" / "reasons.md").read_text() + PAGES["errors.md"]
    for reason in (*FAILURES, *Reason):
        assert f"`{reason}`" in tables, reason
    for reason in re.findall(r"\(`([A-Z]\w+)`\)", CLUSTER + SWAP + GITOPS):
        assert f"`{reason}`" in tables, reason


def test_shown_deployment_is_valid() -> None:
    """The example of `spec.deployment` and that of a private registry can be copied."""
    size, source = re.findall(r"```yaml\n(.*?)```", CLUSTER, re.DOTALL)
    spec = yaml.safe_load(size)["spec"]
    model = {"name": "rf", **yaml.safe_load(source.replace("sha256:…", "sha256:" + "a" * 64))}
    pipeline = Pipeline.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.PIPELINE_KIND,
            "metadata": {"name": "house-price"},
            "spec": {**spec, "steps": [{"name": "predict", "model": model}]},
        }
    )
    assert pipeline.spec.deployment.replicas == 3


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every file and every title that a page links to is there."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    for file, title in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = (path.parent / file) if file else path
        assert target.exists(), file
        if title:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert title in {anchor(each) for each in titles}, f"{file}#{title}"
