"""The examples for Prometheus and Grafana: their expressions are valid, and each metric in them exists."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from process import EXAMPLES
from status import Status

PROMETHEUS = EXAMPLES / "deploy" / "prometheus"
DASHBOARD = EXAMPLES / "deploy" / "grafana" / "maypole.json"
METRIC = re.compile(r"\b(?:maypole|http_server)_\w+")


def expressions():
    """Returns the expressions of the dashboard, with values for its variables, and those of the alerts."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel["targets"]]
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    alerts = [rule["expr"] for group in groups for rule in group["rules"]]
    return [one.replace("$__rate_interval", "5m").replace("$instance", ".*") for one in drawn] + alerts


def test_each_metric_of_the_examples_exists(server):
    running = server("probe", "-w", "1", "--status-bind", "0")
    assert running.get().status == 200
    shown = set(re.findall(r"^([a-z_]+)[ {]", Status(running).text("/metrics")[1], re.M))
    named = {name for one in expressions() for name in METRIC.findall(one)}
    assert len(named) > 10 and named - shown == set()


def test_panels_of_the_dashboard_stand_beside_each_other():
    board = json.loads(DASHBOARD.read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool on this machine")
def test_promtool_takes_the_configuration_and_the_expressions(tmp_path):
    def check(kind, path):
        done = subprocess.run(["promtool", "check", kind, path], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    check("config", PROMETHEUS / "prometheus.yml")
    rules = [{"record": f"expression:{at}", "expr": one} for at, one in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    check("rules", tmp_path / "rules.yml")
