"""A small Debian with systemd as its first process, in its own namespaces: no virtual machine, no container engine, no
network but its loopback. Needs root, debootstrap and a kernel with overlayfs and cgroup 2."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rehearsal"))

from processes import poll  # noqa: E402

BASE = ROOT / "target" / "deploy" / "debian"
PACKAGES = "systemd,systemd-sysv,dbus,caddy,curl,man-db,sqlite3"
CLONE_NEWNET = 0x40000000
# Run by sh as the first process of the new namespaces, with the root and the folder to overlay it with.
BOOT = r"""
base=$1 folder=$2 root=$2/root
mkdir -p "$folder/upper" "$folder/work" "$root"
mount -t overlay -o "lowerdir=$base,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm run/outside
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up
hostname bobbin-test
echo "127.0.0.1 localhost bobbin-test" >etc/hosts
: >etc/resolv.conf
pivot_root . run/outside
umount -l run/outside
exec env -i container=bobbin-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
"""


def base():
    """The files of a clean Debian, made once for these packages and never changed."""
    stamp = BASE.with_suffix(".packages")
    if not stamp.exists() or stamp.read_text() != PACKAGES:
        subprocess.run(["rm", "-rf", BASE], check=True)
        BASE.mkdir(parents=True)
        args = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", BASE]
        made = subprocess.run(args, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout[-2000:] + made.stderr
        stamp.write_text(PACKAGES)
    return BASE


class Machine:
    def __init__(self, folder):
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        hierarchy = next(Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2")
        self.folder, self.cgroup = folder, hierarchy / f"bobbin-test-{os.getpid()}"
        self.cgroup.mkdir()
        join = f'echo $$ >"{self.cgroup}/cgroup.procs"; exec "$@"'
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child"]
        args = ["sh", "-euc", join, "sh", "unshare", *spaces, "--propagation", "private"]
        args += ["sh", "-euc", BOOT, "sh", base(), folder]
        self.log = (folder / "boot.log").open("w")
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.first = poll("the first process", self._first)
        poll(lambda: f"systemd is up: {(folder / 'boot.log').read_text()}", self._is_up, 60)

    def _first(self):
        """The outer number of the machine's process 1."""
        assert self.process.poll() is None, (self.folder / "boot.log").read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return children and children[0]

    def _is_up(self):
        assert self.process.poll() is None, (self.folder / "boot.log").read_text()
        return self.try_run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def try_run(self, *args):
        """Run a command inside, without a terminal or input."""
        enter = ["nsenter", "-t", self.first, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb"]
        return subprocess.run([*enter, *clean, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def run(self, *args):
        """The output of a command that succeeds."""
        done = self.try_run(*args)
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout.strip()

    def journal(self, unit="bobbin"):
        return self.try_run("journalctl", f"--unit={unit}", "--no-pager", "--lines=40").stdout

    def put(self, source, target):
        """Copy a file into the machine."""
        text = Path(source).read_bytes()
        write = ["nsenter", "-t", self.first, "-m", "-r", "tee", target]
        subprocess.run(write, input=text, stdout=subprocess.DEVNULL, check=True)

    def enter_network(self):
        """From here on, the calling thread's new sockets are on the machine's own loopback."""
        with open(f"/proc/{self.first}/ns/net") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def within(self, work):
        """The result of `work`, run in a thread that sees the machine's network."""
        results = []

        def body():
            self.enter_network()
            try:
                results.append(work())
            except OSError as error:
                results.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return results[0]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        end = time.monotonic() + 10
        for group in sorted(self.cgroup.rglob("*/"), reverse=True) + [self.cgroup]:
            while group.is_dir() and time.monotonic() < end:
                try:
                    group.rmdir()
                except OSError:
                    for process in (group / "cgroup.procs").read_text().split():
                        os.kill(int(process), signal.SIGKILL)
                    time.sleep(0.05)
