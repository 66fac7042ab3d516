"""cfn/deploy.sh without AWS: the output of a dry run is compared with what the templates need, and a real run uses
stand-ins for aws, docker and curl that record how they were called."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest

from resolve import ORDER, World
from test_templates import CERTIFICATE, EDGE, ROOT, SECRET, TEXTS

REPOSITORY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/production/chat"
STAND_IN = r"""#!/bin/sh
# Records the call and prints the answer the script needs.
[ "$1 $2" = "ecr get-login-password" ] || [ "$(basename "$0")" != docker ] || [ "$1" != login ] || cat > /dev/null
printf '%s\n' "$(basename "$0") $*" >> "$CALLS"
case "$*" in
*"$FAIL"*) [ -z "$FAIL" ] || exit 1 ;;
esac
case "$*" in
*describe-managed-prefix-lists*) echo pl-0a1b2c ;;
*Stacks?0?.Parameters*)
    [ "$BEFORE" ] || { echo "Stack with id x does not exist" >&2 && exit 254; }
    echo "$BEFORE" ;;
*RepositoryUri*) echo 123456789012.dkr.ecr.eu-central-1.amazonaws.com/production/chat ;;
*"'Registry'"*) echo 123456789012.dkr.ecr.eu-central-1.amazonaws.com ;;
*PublicURL* | *ExternalUrl*) echo https://chat.example.org ;;
*DnsName* | *DomainName*) echo chat.example.org ;;
*get-login-password*) echo secret ;;
*describe-images*) exit 255 ;;
esac
"""
WAYS = {  # what a person may say to make, beside ENV and REGION
    "no certificate": {},
    "certificate": {"CERT": CERTIFICATE},
    "plain": {"CLOUDFRONT": "0"},
    "all of one's own": {
        "CERT": CERTIFICATE,
        "CLOUDFRONT": "1",
        "DOMAIN": EDGE["DomainName"],
        "EDGE_CERT": EDGE["EdgeCertificateArn"],
    },
    "tools": {
        "CHAT_PARAMS": f"AdminTokenSecret={SECRET.format('admin-token')} PostTokenSecret={SECRET.format('post-token')} "
        "AllowedOrigins=https://a.example,https://b.example",
    },
    "cheapest": {
        "CLOUDFRONT": "0",
        "ARCH": "ARM64",
        "CLUSTER_PARAMS": "TaskNetwork=public-addresses",
        "RESOURCES_PARAMS": "CacheNodes=1",
        "CHAT_PARAMS": "ContainerCpu=256 ContainerMemory=512 DesiredCount=1",
    },
}


@pytest.fixture
def script(tmp_path):
    """Runs cfn/deploy.sh with stand-ins for everything that would reach out; gives what it printed and called."""
    for name in ("aws", "docker", "curl"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(what, fail="", expect=0, **given):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "CALLS": str(calls),
            "FAIL": fail,
            "ENV": "production",
            "REGION": "eu-central-1",
            "ARCH": "X86_64",
        } | given
        done = subprocess.run(
            [ROOT / "cfn" / "deploy.sh", what], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr, calls.read_text().splitlines()

    return run


def commands(printed):
    """(NAME or None, words) of each command printed by a dry run."""
    for line in printed.splitlines():
        if line and not line.startswith("#"):
            name, inner = re.fullmatch(r"(?:(\w+)=\$\((.*)\)|(?:.*))", line).groups()
            yield name, shlex.split(inner or line)


def stacks(printed):
    """{template: parameters} in the order of a dry run, with AWS's answers filled in."""
    found = {}
    for _, words in commands(printed):
        if words[:3] == ["aws", "cloudformation", "deploy"]:
            template = pathlib.Path(words[words.index("--template-file") + 1])
            assert (ROOT / template).exists() and words[
                words.index("--stack-name") + 1
            ] == f"bobbin-production-{template.stem}"
            pairs = dict(word.split("=", 1) for word in words[words.index("--parameter-overrides") + 1 :])
            found[template.stem] = {
                k: v.replace("$PREFIX_LIST", "pl-0a1b2c").replace("$REPOSITORY", REPOSITORY) for k, v in pairs.items()
            }
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_dry_run_prints_what_the_templates_need(script, way):
    printed, calls = script("deploy", DRY_RUN="1", **WAYS[way])
    assert calls == [], "a dry run must run nothing"
    subprocess.run(["bash", "-n"], input=printed, text=True, check=True)  # its output is a script
    given = stacks(printed)
    world = World(TEXTS, given, list(given))  # deployed in the order printed: imports can only refer to earlier stacks
    assert not [error for stack in world.stacks.values() for error in stack.errors]
    behind = world.cluster.parameters["PublicEntry"] == "cloudfront"
    assert list(given) == ORDER[: 4 if behind else 3]
    assert all(
        "CAPABILITY_IAM" in words for _, words in commands(printed) if words[:3] == ["aws", "cloudformation", "deploy"]
    )


@pytest.mark.parametrize("way", WAYS)
def test_each_output_asked_for_is_there_by_then(script, way):
    printed, _ = script("deploy", DRY_RUN="1", **WAYS[way])
    deployed, set_so_far = {}, set()
    for name, words in commands(printed):
        for used in re.findall(r"\$(\w+)", " ".join(words)):
            assert used in set_so_far, f"${used} is used before it is known"
        if words[:3] == ["aws", "cloudformation", "deploy"]:
            deployed[words[words.index("--stack-name") + 1]] = words[words.index("--template-file") + 1]
        if words[:3] == ["aws", "cloudformation", "describe-stacks"]:
            stack, key = words[words.index("--stack-name") + 1], re.search(r"OutputKey=='(\w+)'", " ".join(words))[1]
            assert (
                stack in deployed
                and key
                in World(TEXTS, {"chat-service": {"ImageUrl": "a:b"}})
                .stacks[pathlib.Path(deployed[stack]).stem]
                .outputs
            )
        set_so_far.add(name)


def test_the_image_is_pushed_before_it_is_run_and_fits_the_processor(script):
    for arch, platform in (("X86_64", "linux/amd64"), ("ARM64", "linux/arm64")):
        printed, _ = script("deploy", DRY_RUN="1", ARCH=arch)
        lines = printed.splitlines()
        build, push, run = (
            next(i for i, line in enumerate(lines) if text in line)
            for text in ("docker build", "docker push", "ImageUrl=")
        )
        assert build < push < run
        image = shlex.split(lines[push])[-1]
        assert f"--tag {image} " in lines[build] and platform in lines[build]
        assert f"ImageUrl={image} " in lines[run] and f"CpuArchitecture={arch}" in lines[run]


def test_an_image_of_ones_own_is_not_built(script):
    printed, _ = script("deploy", DRY_RUN="1", IMAGE=REPOSITORY + "@sha256:abc")
    assert "docker" not in printed and f"ImageUrl={REPOSITORY}@sha256:abc" in printed


def test_secrets_and_origins_are_passed_as_they_are(script):
    printed, _ = script("deploy", DRY_RUN="1", **WAYS["tools"])
    given = stacks(printed)["chat-service"]
    assert given["AdminTokenSecret"] == SECRET.format("admin-token")
    assert given["PostTokenSecret"] == SECRET.format("post-token")
    assert given["AllowedOrigins"] == "https://a.example,https://b.example"


def test_destroy_takes_the_stacks_away_in_reverse(script):
    printed, calls = script("destroy", DRY_RUN="1")
    assert calls == []
    names = [words[words.index("--stack-name") + 1] for _, words in commands(printed) if "delete-stack" in words]
    assert names == [f"bobbin-production-{name}" for name in reversed(ORDER)]
    waits = [
        words[words.index("--stack-name") + 1] for _, words in commands(printed) if "stack-delete-complete" in words
    ]
    assert waits == names


@pytest.mark.parametrize("what, way", [("deploy", w) for w in WAYS] + [("destroy", "plain")])
def test_a_real_run_calls_what_the_dry_run_printed(script, what, way):
    """Word for word, with the answers filled in, except for look-ups of an earlier deployment."""
    given = WAYS[way] | {"IMAGE": REPOSITORY + ":1"}  # no build: its tag may contain the time
    printed, _ = script(what, DRY_RUN="1", **given)
    _, calls = script(what, **given)
    answers = {"$PREFIX_LIST": "pl-0a1b2c", "$URL": "https://chat.example.org", "$TARGET": "chat.example.org"}
    expected = [
        re.sub("|".join(map(re.escape, answers)), lambda m: answers[m[0]], " ".join(words))
        for _, words in commands(printed)
    ]
    assert [c for c in calls if "Stacks[0].Parameters" not in c] == expected


def test_a_real_run_builds_logs_in_and_pushes(script):
    _, calls = script("deploy")
    kinds = [c.split()[1] for c in calls if c.startswith("docker")]
    assert kinds == ["login", "build", "push"] and not any(
        "secret" in c.split() for c in calls
    ), "the password is no argument"


def test_an_update_keeps_what_it_is_not_told(script):
    """A certificate given once is kept, although the second call omits it."""
    _, calls = script("deploy", BEFORE=CERTIFICATE, CLOUDFRONT="0", IMAGE=REPOSITORY + ":2")
    assert any(f"CertificateArn={CERTIFICATE} " in c for c in calls)


def test_an_update_that_cannot_ask_what_was_there_does_nothing(script):
    """A look-up that fails for a reason other than "no such stack" must not be taken for a first deployment."""
    printed, calls = script("deploy", fail="Stacks[0].Parameters", expect=1)
    assert len(calls) == 1


def test_a_stack_that_fails_stops_it_and_says_why(script):
    printed, calls = script(
        "deploy", fail="--stack-name bobbin-production-resources --template-file", expect=1, IMAGE=REPOSITORY + ":1"
    )
    assert "describe-stack-events --stack-name bobbin-production-resources" in calls[-1]
    assert not any("chat-service" in c for c in calls)


@pytest.mark.parametrize("missing", ["ENV", "REGION"])
def test_what_is_missing_is_named(script, missing):
    printed, calls = script("deploy", expect=1, **{missing: ""})
    assert missing in printed and calls == []
