"""Quick checks of the unit and the package's generated files. `make package-test` installs the package on a Debian of
its own; see install.py."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "docs" / "deploy" / "bobbin.service"
EXAMPLES = Path(os.environ.get("BOBBIN", ROOT / "target" / "debug" / "bobbin")).parent / "examples"


def settings():
    """The variables in the settings table."""
    table = (ROOT / "src" / "settings" / "table.rs").read_text()
    table = table[table.index("pub const SPECS") :].partition("];")[0]
    names = re.findall(r'\(\s*"([A-Z_]+)"', table)
    assert len(names) > 20
    return names


def unit(key):
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.M)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    subprocess.run([EXAMPLES / "package_files", folder], check=True)
    return folder


def test_systemd_accepts_the_unit(tmp_path):
    copy = tmp_path / "bobbin.service"
    text = UNIT.read_text().replace("/usr/bin/bobbin", "/bin/true")
    copy.write_text(re.sub("^Documentation=.*\n", "", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    # Debian 12's systemd does not know these two; the unit says so.
    complaints = [line for line in done.stderr.splitlines() if not re.search("'Restart(Steps|MaxDelaySec)'", line)]
    assert (done.returncode, [line for line in complaints if "bobbin" in line]) == (0, []), done.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=13", "--no-pager", copy]
    done = subprocess.run(security, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_the_units_numbers_fit_the_server():
    limits = (ROOT / "src" / "limits.rs").read_text() if (ROOT / "src" / "limits.rs").exists() else ""
    limits += "".join(path.read_text() for path in (ROOT / "src").glob("limits/*.rs"))
    server = (ROOT / "src" / "server.rs").read_text()
    reserve = int(re.search(r"const RESERVE: usize = (\d+)", limits)[1])
    # The kernel's default vm.max_map_count, at four maps per connection, must be the limit that decides.
    maps = (65_530 - int(re.search(r"const MAPS_RESERVE: usize = (\d+)", limits)[1])) // 4
    for key in ("TasksMax", "LimitNOFILE"):
        assert int(unit(key)[0]) - reserve >= maps, key
    after = re.findall(r"const (?:DRAIN_GRACE|STOP_TIME): Duration = Duration::from_secs\((\d+)\)", server)
    assert len(after) == 2 and int(unit("TimeoutStopSec")[0]) > 100 + sum(map(int, after))
    assert "DRAIN_SECONDS=3" in unit("Environment")


def test_every_setting_is_in_every_generated_file(generated):
    names = settings()
    defaults = (generated / "bobbin.default").read_text()
    page = (generated / "bobbin.1").read_text()
    page = re.sub(r"\\f[BIR]", " ", page).replace("\\-", "-").replace("\\_", "_")
    for name in names:
        assert len(re.findall(rf"^#{name}=", defaults, re.M)) == 1, f"{name} in /etc/default/bobbin"
        assert re.search(rf"\b{name}\b", page), f"{name} in the man page"
    assert not [line for line in defaults.splitlines() if line and not line.startswith("#")], "a setting is not commented"
    flags = re.findall(r"--[a-z-]+", page)
    for shell in ("bobbin.bash", "_bobbin", "bobbin.fish"):
        text = (generated / shell).read_text()
        for flag in flags:
            assert flag.removeprefix("--") in text, f"{flag} in {shell}"
    subprocess.run(["bash", "-n", generated / "bobbin.bash"], check=True)
