"""The alerts and the dashboard in docs/deploy: valid for promtool, about metrics that a running Bobbin has, and each
alert with a test and an entry in the runbook."""

import contextlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
BINARY = Path(os.environ.get("BOBBIN", ROOT / "target" / "debug" / "bobbin"))
NAME = re.compile(r"\b(?:bobbin|process)_[a-z_]+\b")


@pytest.fixture(scope="module")
def metrics():
    """The names on /metrics of a running instance."""
    environment = {"PATH": os.environ["PATH"], "PORT": "0", "BIND": "127.0.0.1"}
    process = subprocess.Popen([BINARY], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if address := re.search(r"listening on (http://\S+)", line):
                break
        # Refusals have a series per status, which exists from the first refusal on.
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address[1]}/nowhere", timeout=10)
        with urllib.request.urlopen(f"{address[1]}/metrics", timeout=10) as answer:
            return set(NAME.findall(answer.read().decode()))
    finally:
        process.kill()
        process.wait()


def alerts():
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_promtool_accepts_the_alerts_and_their_tests():
    for args in (["check", "rules", DEPLOY / "alerts.yml"], ["test", "rules", ROOT / "tests/deploy/alerts_test.yml"]):
        done = subprocess.run(["promtool", *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_an_entry_in_the_runbook():
    tests, runbook = (ROOT / "tests/deploy/alerts_test.yml").read_text(), (ROOT / "docs/operating.md").read_text()
    for rule in alerts():
        name = rule["alert"]
        assert name in tests, f"{name} has no test"
        assert f"### {name}\n" in runbook, f"{name} is not in docs/operating.md"
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{name.lower()}"
    known = {rule["alert"] for rule in alerts()}
    assert set(re.findall(r"^### (Bobbin\w+)$", runbook, re.M)) <= known, "the runbook explains an alert that is not there"


def test_alerts_and_dashboard_use_metrics_that_are_there(metrics):
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    for query in queries + [rule["expr"] for rule in alerts()]:
        for name in NAME.findall(query):
            assert name in metrics, f"{name} of {query!r} is not on /metrics"


def test_dashboard_queries_are_valid(tmp_path):
    """promtool parses them as rules, with a value substituted for each of Grafana's variables."""
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
