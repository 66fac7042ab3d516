"""Checks the templates without AWS: first cfn-lint, then every check in `checks/` on the resolved stacks, and for
every check at least one mutated copy that it must reject. A check that rejects nothing proves nothing."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import checks
from checks import common
from resolve import ORDER, World

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TEXTS = {name: (ROOT / "cfn" / f"{name}.yml").read_text() for name in ORDER}
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/0a1b2c3d"
EDGE = {"DomainName": "chat.example.org", "EdgeCertificateArn": CERTIFICATE.replace("eu-central-1", "us-east-1")}
BEHIND = {"PublicEntry": "cloudfront", "CloudFrontPrefixList": "pl-0a1b2c"}
TOPIC = "arn:aws:sns:eu-central-1:123456789012:people"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:production/chat/{}-AbCd12"
DIRECT = ORDER[:3]

# The ways to deploy: what differs from the defaults, and which stacks.
SCENARIOS = {
    "as it comes": ({}, DIRECT),
    "with a certificate": (
        {"cluster": {"CertificateArn": CERTIFICATE}, "chat-service": {"AlarmTopicArn": TOPIC}},
        DIRECT,
    ),
    "behind CloudFront": ({"cluster": BEHIND}, ORDER),
    "behind CloudFront, encrypted throughout": (
        {"cluster": BEHIND | {"CertificateArn": CERTIFICATE}, "cloudfront": EDGE},
        ORDER,
    ),
    "cheapest": (
        {
            "cluster": {"TaskNetwork": "public-addresses"},
            "resources": {"CacheNodes": 1},
            "chat-service": {
                "ContainerCpu": 256,
                "ContainerMemory": 512,
                "DesiredCount": 1,
                "CpuArchitecture": "ARM64",
            },
        },
        DIRECT,
    ),
    "sturdiest": ({"cluster": {"TaskNetwork": "endpoints-two-zones"}, "resources": {"CacheNodes": 3}}, DIRECT),
    "CPU alone": ({"chat-service": {"ConnectionScaling": "off", "MaxConnections": "4000"}}, DIRECT),
    "logged in": (
        {"chat-service": {"TrustedProxies": "10.0.1.0/24,10.0.2.0/24", "UserHeader": "X-Amzn-Oidc-Identity"}},
        DIRECT,
    ),
    "connections alone": ({"chat-service": {"CpuScaling": "off"}}, DIRECT),
    "with a passphrase": ({"chat-service": {"PassphraseSecret": SECRET.format("passphrase")}}, DIRECT),
    "with all secrets": (
        {
            "cluster": BEHIND,
            "chat-service": {
                "PassphraseSecret": SECRET.format("passphrase"),
                "AdminTokenSecret": SECRET.format("admin-token"),
                "PostTokenSecret": SECRET.format("post-token"),
                "MetricsTokenSecret": SECRET.format("metrics-token"),
                "AllowedOrigins": "https://a.example,https://b.example:8443",
            },
        },
        ORDER,
    ),
    "no scaling": ({"chat-service": {"CpuScaling": "off", "ConnectionScaling": "off"}}, DIRECT),
    "other names": (
        {n: {"EnvironmentName": "production"} for n in DIRECT}
        | {
            "chat-service": {
                "ServiceName": "talk",
                "ContainerPort": 8080,
                "Priority": 7,
                "Path": "/r/*",
                "EnvironmentName": "production",
                "Role": "arn:aws:iam::123456789012:role/own",
            }
        },
        DIRECT,
    ),
}


def world(scenario, texts=TEXTS):
    parameters, stacks = SCENARIOS[scenario]
    chat = {"ImageUrl": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/chat:1"} | parameters.get("chat-service", {})
    return World(texts, parameters | {"chat-service": chat}, stacks)


def test_cfn_lint_finds_nothing():
    lint = pathlib.Path(sys.executable).with_name("cfn-lint")
    run = subprocess.run([lint, *(str(ROOT / "cfn" / f"{n}.yml") for n in ORDER)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_check_holds(scenario):
    found = {name: list(check(world(scenario))) for name, check in checks.CHECKS.items()}
    assert not any(found.values()), {name: f for name, f in found.items() if f}


@pytest.mark.parametrize(
    "name, value",
    [
        ("AdminTokenSecret", "2f5d8c1e9b7a4f60"),  # the token itself
        ("AdminTokenSecret", SECRET.format("admin-token").removesuffix("-AbCd12")),  # the role could not read it
        ("AdminTokenSecret", SECRET.format("*")),
        ("AdminTokenSecret", SECRET.format("admin-token") + ":token::"),  # a field of JSON: no role has this resource
        ("PassphraseSecret", "arn:aws:ssm:eu-central-1:123456789012:parameter/passphrase"),
        ("AllowedOrigins", "a.example"),
        ("AllowedOrigins", "https://a.example/chat"),
        ("AllowedOrigins", "https://a.example, https://b.example"),
    ],
)
def test_a_parameter_that_would_fail_later_is_refused(name, value):
    chat = {"ImageUrl": "a:b", name: value}
    assert World(TEXTS, {"chat-service": chat}, DIRECT).chat.errors


def test_the_server_and_the_image_are_what_the_templates_think():
    """What the checks assume about the server and the image, verified in the sources: names, paths, times, user."""
    def source(path):
        return (ROOT / "src" / path).read_text()

    settings = set(re.findall(r'^\s+\(?"([A-Z_]+)",', source("settings/table.rs"), re.M))
    for variant in ("CPU alone", "logged in", "with all secrets"):
        task = common.container(world(variant))
        assert set(common.named(task["Environment"])) | {s["Name"] for s in task["Secrets"]} <= settings
    assert set(re.findall(r'metric\("(\w+)"', source("metrics/emf.rs"))) == common.METRICS
    assert f"KEEP_ALIVE: Duration = Duration::from_secs({common.KEEP_ALIVE})" in source("http/head.rs")
    assert f"PING_EVERY: Duration = Duration::from_secs({common.PING})" in source("session/mod.rs")
    assert '"/healthz"' in source("http/status.rs") and "--healthcheck" in " ".join(task["HealthCheck"]["Command"])
    assert all(text in source("http/routes.rs") for text in ('"messages" =>', '"alertmanager" =>', '"/admin/"'))
    # Behind a load balancer only the token opens /metrics.
    assert "contains_key(limits::FORWARDED_FOR) && limits::is_private" in source("http/auth.rs")
    image = (ROOT / "Dockerfile").read_text()
    assert f'ENTRYPOINT ["{task["HealthCheck"]["Command"][1]}"]' in image and f"USER {task['User']}" in image


MUTANTS = [
    (check, *mutant)
    for check, mutants in yaml.safe_load((HERE / "mutants.yml").read_text()).items()
    for mutant in mutants
]


@pytest.mark.parametrize("name, template, old, new", MUTANTS, ids=[f"{i:03}-{m[0]}" for i, m in enumerate(MUTANTS)])
def test_the_check_bites(name, template, old, new):
    assert old in TEXTS[template], f"{template} no longer has {old!r}"
    mutated = TEXTS | {template: TEXTS[template].replace(old, new)}

    assert any(
        list(checks.CHECKS[name](world(scenario, mutated))) for scenario in SCENARIOS
    ), f"{name} lets {new!r} pass"


def test_every_check_has_a_mutant():
    assert {m[0] for m in MUTANTS} == set(checks.CHECKS)
