"""The workflows pass actionlint and zizmor, every action is pinned by digest with its version beside it, and no job
has more permissions than it needs. (That GitHub runs them is not proven here.)"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
BIN = Path(sys.executable).parent


def lint(*args):
    done = subprocess.run([BIN / args[0], *args[1:]], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def test_linters_find_nothing_and_would_find_something(tmp_path):
    files = sorted(FOLDER.glob("*.yml"))
    assert lint("actionlint", *files) == (0, "")
    audit = ["zizmor", "--offline", "--no-progress", "--min-severity=medium"]
    code, said = lint(*audit, FOLDER)
    assert code == 0, said
    broken = tmp_path / "ci.yml"
    text = (FOLDER / "ci.yml").read_text()
    broken.write_text(text.replace("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.04\n    needs: nothing", 1))
    assert lint("actionlint", broken)[0] == 1
    broken.write_text(re.sub(r"checkout@\w+ # v", "checkout@v", text))
    assert lint(*audit, broken)[0] > 1


def test_every_action_is_pinned_by_digest_with_its_version():
    for path in FOLDER.glob("*.yml"):
        for line in re.findall(r"uses: (.*)", path.read_text()):
            pinned = re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
            assert pinned or line == "./.github/workflows/ci.yml", f"{path.name}: {line}"


def test_jobs_may_do_what_they_have_to_and_no_more():
    assert WORKFLOWS["ci.yml"]["permissions"] == {"contents": "read"}
    assert WORKFLOWS["release.yml"]["permissions"] == {}
    jobs = WORKFLOWS["release.yml"]["jobs"]
    may_write = {name: {k for k, v in job["permissions"].items() if v == "write"} for name, job in jobs.items()}
    assert {name: rights for name, rights in may_write.items() if rights} == {
        "images": {"packages"},
        "publish": {"contents", "packages", "id-token", "attestations"},
    }
    for workflow in WORKFLOWS.values():
        assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())


def test_ci_is_the_gate_that_everybody_runs():
    steps = WORKFLOWS["ci.yml"]["jobs"]["gate"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    assert WORKFLOWS["release.yml"]["jobs"]["binaries"]["needs"] == ["version", "gate"]
