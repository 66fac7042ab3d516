"""Checks of compose.yaml that need no engine; `make docker-test` starts it."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docs" / "deploy" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_each_service_is_in_one_profile_and_needs_only_its_own():
    for name, service in SERVICES.items():
        assert len(service["profiles"]) == 1, name
        for other in service.get("depends_on", []):
            assert SERVICES[other]["profiles"] == service["profiles"], f"{name} needs {other}"
        for mount in service.get("volumes", []):
            volume = mount.split(":")[0]
            assert volume in COMPOSE["volumes"] or (ROOT / "docs" / "deploy" / volume).exists(), mount


def test_caddy_sends_people_to_the_instances_of_its_profile():
    domains = (ROOT / "docs" / "deploy" / "Caddyfile").read_text()
    for name in ("caddy", "caddy-pair"):
        environment = SERVICES[name]["environment"]
        for variable in environment:
            assert f"{{${variable}:" in domains, variable
        upstreams = {upstream.removesuffix(":3000") for upstream in environment["UPSTREAMS"].split()}
        assert upstreams == set(SERVICES[name]["depends_on"])


def test_instances_may_end_in_their_own_time_and_write_only_to_their_volume():
    for name in ("bobbin", "one", "two"):
        service = SERVICES[name]
        drain = int(service["environment"]["DRAIN_SECONDS"])
        assert int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1]) > drain + 9, name
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
    assert "COPY --from=build --chown=65532:65532 /data /data" in (ROOT / "Dockerfile").read_text()
    assert SERVICES["bobbin"]["environment"]["DATA_FILE"].startswith("/data/")
    assert SERVICES["bobbin"]["volumes"] == ["bobbin:/data"]
