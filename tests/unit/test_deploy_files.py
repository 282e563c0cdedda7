"""What stands in deploy/ and docker-compose.yml is held to the code that it talks about."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from streamlearn import config_file
from streamlearn.config import Gate
from streamlearn.core.metrics import CATALOGUE, Kind

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "streamlearn.json"

TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to every series of a target."""
NOT_OURS: dict[str, set[str]] = {
    "up": set(),
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
}
"""Series of Prometheus itself and of its client library, with their labels."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(ROOT / "docker-compose.yml")["services"]
    return found


def jobs() -> set[str]:
    """Services that end, and that others wait for to have ended well."""
    return {
        name
        for service in services().values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(RULES)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return list(dashboard()["panels"])


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def labels_of(series: str) -> set[str] | None:
    """Return the labels that our worker exports `series` with; None where it exports no such series."""
    if series in NOT_OURS:
        return NOT_OURS[series]
    if (metric := CATALOGUE.get(series)) is not None and metric.kind is not Kind.HISTOGRAM:
        return set(metric.labels)
    base, _, suffix = series.rpartition("_")
    if suffix in {"bucket", "sum", "count"} and (metric := CATALOGUE.get(base)) and metric.kind is Kind.HISTOGRAM:
        return set(metric.labels) | ({"le"} if suffix == "bucket" else set())
    return None


def mistakes(expression: str, recorded: set[str]) -> list[str]:
    """Name every series of `expression` that nobody exports, and every label that it does not have."""
    found = []
    for series, selector in re.findall(r"\b((?:streamlearn[_:]|kafka_|process_|up\b)[\w:]*)(\{[^}]*\})?", expression):
        if series in recorded:
            continue
        if (labels := labels_of(series)) is None:
            found.append(f"{series} is exported by nobody")
            continue
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        found += [f"{series} has no label {label}" for label in sorted(asked - labels - TARGET_LABELS)]
    return found


def promtool(*arguments: str | Path) -> None:
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian's package is `prometheus`)")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def builder() -> ModuleType:
    """Load deploy/requirements.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("requirements", DEPLOY / "requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the image --------------------------------------------------------------------


def test_the_image_installs_what_the_project_lists() -> None:
    """A second list of dependencies would be forgotten in one of two places."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert builder().dependencies(ROOT / "pyproject.toml") == listed


def test_a_torch_index_out_of_reach_is_told_of_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A build behind a mirror of its own goes on at once, rather than after minutes of pip's patience."""
    # Port 1 refuses connections everywhere.
    assert builder().torch_index("https://127.0.0.1:1/whl/cpu") == []
    assert "does not answer" in capsys.readouterr().err


def test_no_torch_index_asks_for_nothing_and_another_scheme_is_refused() -> None:
    """An index that is read in the clear could hand us anybody's torch."""
    assert builder().torch_index("") == []
    with pytest.raises(SystemExit, match="https://"):
        builder().torch_index("http://127.0.0.1/whl")


def test_what_the_wheel_is_built_from_gets_into_the_image() -> None:
    """.dockerignore keeps out what it does not name: a file added to pyproject.toml would be missed by the build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    needed = {"pyproject.toml", "constraints.txt", "streamlearn", project["readme"]}
    needed |= {name for name in project["license-files"] if not name.startswith("streamlearn/")}

    assert needed <= let_in
    assert all((ROOT / name).exists() for name in let_in)


# --- compose ------------------------------------------------------------------------


def test_the_configuration_of_the_stack_loads_and_agrees_with_it() -> None:
    """A topic or bucket that nobody creates would end the worker at its start."""
    config = config_file.load(DEPLOY / "compose" / "streamlearn.toml", env={})
    stack = services()

    created = re.search(r"for topic in (.*); do", stack["topics"]["command"][0])
    assert created is not None
    assert created[1].split() == [*config.kafka.topics, config.kafka.dead_letter_topic]
    bucket = config.store.url.removeprefix("s3://").partition("/")[0]
    assert f"-bucket={bucket}" in stack["seaweedfs"]["command"]
    assert f"/data/{bucket} " in stack["minio"]["command"][0]
    assert f"--topic={config.kafka.topics[0]}" in stack["feeder"]["command"]
    assert f"--bootstrap-servers={config.kafka.bootstrap_servers}" in stack["feeder"]["command"]


def test_the_worker_has_time_to_finish_before_it_is_killed() -> None:
    """Killed within its grace it would learn the last minute again at every restart."""
    config = config_file.load(DEPLOY / "compose" / "streamlearn.toml", env={})

    assert float(services()["worker"]["stop_grace_period"].removesuffix("s")) > config.shutdown.grace_s


def test_nothing_of_the_stack_listens_beyond_this_machine() -> None:
    """Its brokers and stores know no real password."""
    ports = [port for service in services().values() for port in service.get("ports", ())]

    assert len(ports) >= 5
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", sorted(services()))
def test_every_service_says_whether_it_is_well_and_is_bounded(name: str) -> None:
    """`up --wait` can only wait for what has a health check; one hungry container must not take the machine."""
    service = services()[name]

    assert "healthcheck" in service or name in jobs()
    assert "mem_limit" in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] in ({"no"} if name in jobs() else {"unless-stopped", "on-failure"})
    image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", image)
    assert not image.endswith(":latest")


@pytest.mark.parametrize("name", ["feeder", "worker"])
def test_our_own_containers_may_do_nothing_but_their_work(name: str) -> None:
    """Whoever breaks into the worker finds no root, no capability and nothing to write to."""
    service = services()[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001:10001"]


# --- Prometheus ---------------------------------------------------------------------


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    """A server that refuses its configuration does not start, or keeps the one before."""
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    """An alert is code that runs for the first time when it is needed most."""
    promtool("test", "rules", DEPLOY / "prometheus" / "rules.test.yml")


def test_every_alert_is_among_those_tests_and_says_what_to_do() -> None:
    """An alert that nobody can act upon is noise."""
    alerts = [rule for rule in rules() if "alert" in rule]
    fired = set()
    for case in read(DEPLOY / "prometheus" / "rules.test.yml")["tests"]:
        for test in case["promql_expr_test"]:
            if test["exp_samples"]:
                fired |= set(re.findall(r'alertname="(\w+)"', test["expr"]))

    assert {alert["alert"] for alert in alerts} == fired
    assert {alert["labels"]["severity"] for alert in alerts} == {"critical", "warning"}
    for alert in alerts:
        assert {"summary", "description"} == alert["annotations"].keys()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_the_worker_exports(rule: dict[str, Any]) -> None:
    """A rule over a renamed metric is silent for ever."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}

    assert mistakes(rule["expr"], recorded) == []


def test_a_wrong_name_or_label_would_be_noticed() -> None:
    """The tests around this one rest on it."""
    assert mistakes('rate(streamlearn_tokens_total{job="x"}[5m])', set()) == [
        "streamlearn_tokens_total is exported by nobody"
    ]
    assert mistakes('streamlearn_events_total{result="admitted"}', set()) == [
        "streamlearn_events_total has no label result"
    ]
    assert mistakes("streamlearn_step_seconds", set()) == ["streamlearn_step_seconds is exported by nobody"]
    assert mistakes('streamlearn_step_seconds_bucket{le="1.0"}', set()) == []


# --- Grafana ------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "expression"), list(dashboard_expressions()))
def test_a_panel_asks_for_what_the_worker_exports(title: str, expression: str) -> None:
    """A panel over a renamed metric says `No data`, which reads like peace."""
    assert mistakes(expression, set()) == [], title


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_metric_is_on_some_panel(name: str) -> None:
    """What nobody looks at need not be exported."""
    shown = " ".join(expression for _, expression in dashboard_expressions())

    assert re.search(rf"\b{name}(?:_bucket|_sum|_count)?\b", shown)


def test_the_lines_of_the_gate_are_drawn_at_its_defaults() -> None:
    """Whoever sees a gain above the line and no promotion looks for a fault that is none."""
    drawn = {
        panel["title"].split()[0]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in panels()
        if panel["title"].startswith(("Gain of the candidate", "Forgetting"))
    }

    defaults = Gate()
    assert drawn == {"Gain": defaults.min_gain, "Forgetting:": defaults.max_held_out_rise}
    blocks = next(panel["description"] for panel in panels() if panel["title"] == "Blocks compared")
    assert f"gate.min_blocks ({defaults.min_blocks})" in blocks
    assert f"gate.max_blocks ({defaults.max_blocks})" in blocks


def test_promtool_can_parse_every_panel(tmp_path: Path) -> None:
    """A typing error would show in the browser only."""
    filled = [
        expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$job", "streamlearn")
        for _, expression in dashboard_expressions()
    ]
    assert not [expression for expression in filled if "$" in expression]
    file = tmp_path / "panels.yml"
    file.write_text(
        json.dumps(
            {
                "groups": [
                    {
                        "name": "panels",
                        "rules": [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(filled)],
                    }
                ]
            }
        )
    )

    promtool("check", "rules", file)


def test_panels_have_room_and_numbers_of_their_own() -> None:
    """Grafana moves what overlaps, and mixes up what shares a number."""
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_panel_explains_itself_and_asks_the_provisioned_source() -> None:
    """Whoever is woken by an alert has not read our documentation."""
    source = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    asking = [panel for panel in panels() if panel["type"] != "row"]

    assert len(asking) >= 20
    for panel in asking:
        assert len(panel["description"]) >= 30, panel["title"]
        named = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {reference["uid"] for reference in named} == {source["uid"]}, panel["title"]
    for variable in dashboard()["templating"]["list"]:
        assert variable["datasource"]["uid"] == source["uid"]


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    """A provider that looks elsewhere shows an empty folder and no error."""
    provider = read(DEPLOY / "grafana" / "provisioning" / "dashboards" / "streamlearn.yml")["providers"][0]
    grafana = services()["grafana"]

    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
