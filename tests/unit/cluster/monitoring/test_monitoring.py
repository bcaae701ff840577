"""The board, the alerts and the scrape configs agree with the metrics that the service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.monitoring import FOLDER, expressions, panels, rules

METRICS = (FOLDER.parents[1] / "deployments" / "metrics.py").read_text()
PROMTOOL = shutil.which("promtool") or ""
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")
DOCUMENTED = (FOLDER.parents[1] / "docs" / "operations.md").read_text()


def ours(expression: str) -> set[str]:
    """The metrics of the service in an expression, without what Prometheus adds to a histogram's name."""
    names = re.findall(r"embedfleet_(\w+)", expression)
    return {name.removesuffix("_bucket") for name in names}


@pytest.mark.parametrize("title", panels())
def test_each_panel_asks_for_metrics_that_exist_and_are_documented(title):
    for expression in panels()[title]:
        for name in ours(expression):
            assert f'"{name}"' in METRICS
            assert f"`{name}`" in DOCUMENTED


def test_each_alert_asks_for_metrics_that_exist():
    for rule in rules():
        for name in ours(rule["expr"]):
            assert f'"{name}"' in METRICS


def test_panels_do_not_overlap():
    board = json.loads((FOLDER / "dashboard.json").read_text())
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_scraped_names_are_those_of_the_board():
    config = yaml.safe_load((FOLDER / "pod_monitor.yaml").read_text())
    (endpoint,) = config["spec"]["podMetricsEndpoints"]
    (rename,) = endpoint["metricRelabelings"]
    renamed = re.fullmatch(rename["regex"], "ray_embedfleet_texts_total")
    assert renamed is not None
    assert renamed[1] == "embedfleet_texts_total"
    assert not re.fullmatch(rename["regex"], "ray_node_gpus_utilization")


@needs_promtool
def test_the_config_and_both_of_its_jobs_are_valid(tmp_path):
    text = (FOLDER / "prometheus.yaml").read_text()
    start = text.index("  # - job_name")
    other = text[:start] + re.sub(r"^  # ", "  ", text[start:], flags=re.MULTILINE)
    (tmp_path / "alerts.yaml").write_text((FOLDER / "alerts.yaml").read_text())
    for number, variant in enumerate((text, other.replace("embedfleet\n", "other\n", 1))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(variant)
        assert len(yaml.safe_load(variant)["scrape_configs"]) == number + 1
        promtool("check", "config", path)


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path):
    # promtool compares annotations too, and their prose may change
    bare = [{k: v for k, v in rule.items() if k != "annotations"} for rule in rules()]
    rule_file = {"groups": [{"name": "embedfleet", "rules": bare}]}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule_file))
    cases = (Path(__file__).parent / "alerts_test.yaml").read_text()
    (tmp_path / "alerts_test.yaml").write_text(cases)
    promtool("test", "rules", tmp_path / "alerts_test.yaml")
    fired = set(re.findall(r"alertname: (\w+), exp_alerts", cases))
    assert fired == {rule["alert"] for rule in rules()}


@needs_promtool
@pytest.mark.parametrize("title", panels())
def test_each_panels_expressions_are_valid(title, tmp_path):
    records = [
        {"record": f"expression:{n}", "expr": e} for n, e in enumerate(expressions(panels()[title]))
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panel", "rules": records}]}))
    promtool("check", "rules", path)


def promtool(*words: object) -> None:
    run = subprocess.run(
        [PROMTOOL, *map(str, words)], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
