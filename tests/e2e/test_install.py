"""deploy/install.sh in a fresh Debian that really boots, and the image of deploy/docker built and run, on the same Debian."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import PATIENCE_SECONDS, eventually
from tests.exports import agent, export, model_call
from tests.require import need, need_program, need_time

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
BASE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spantoll-ci" / "debian" / "base.tar"
#: An installation fetches packages.
INSTALL_SECONDS = 600
PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
CLONE = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "config.toml", "proto", "receiver", "deploy")
#: So that pip inside finds what it finds outside.
NETWORK = [Path(name) for name in ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs") if Path(name).exists()]


def needs(*programs: tuple[str, str]) -> None:
    need_time("the installer and the image")
    need(os.geteuid() == 0, "this needs root")
    for program, package in programs:
        need_program(program, package)
    need(BASE.exists(), "there is no Debian to try it in (tests/e2e/debian/build makes one, with debootstrap)")


def clone_into(folder: Path) -> None:
    """What a clone has, without what lies about in this one."""
    folder.mkdir(parents=True)
    for name in CLONE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "secrets", ".env"))
        else:
            shutil.copy(ROOT / name, folder / name)


@contextmanager
def fresh_debian(folder: Path) -> Iterator[Path]:
    """A root directory with a clone in /root/spantoll; it is large, so it does not stay."""
    root = folder / "root"
    root.mkdir()
    try:
        subprocess.run(["tar", "-C", str(root), "-xf", str(BASE)], check=True, timeout=INSTALL_SECONDS)
        clone_into(root / "root" / "spantoll")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def nspawn(root: Path, *words: str) -> list[str]:
    binds = [f"--bind-ro={path.resolve()}:{path}" for path in NETWORK]
    return ["systemd-nspawn", "--register=no", "--keep-unit", "--quiet", "--resolv-conf=off", *binds, f"--directory={root}", *words]


class Machine:
    """The booted Debian. It has a loopback of its own and no other network, except where `network` lends it ours."""

    def __init__(self, root: Path, leader: int) -> None:
        self._root = root
        self._leader = leader

    def run(self, *words: str, network: bool = False) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "--target", str(self._leader), "-m", "-u", "-i", "-p", *([] if network else ["-n"]), "--root", "--wd"]
        variables = ["env", "-i", f"PATH={':'.join(f'/{at}' for at in PATH)}", "LC_ALL=C.UTF-8"]
        return subprocess.run([*inside, *variables, *words], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)

    def says(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def property(self, name: str) -> str:
        return self.says("systemctl", "show", "-p", name, "--value", "spantoll.service")

    def ready(self) -> bool:
        return self.run("curl", "-sf", "http://localhost:8102/-/ready").returncode == 0

    def metric(self, name: str) -> float:
        lines = self.says("curl", "-s", "http://localhost:8102/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def log(self) -> str:
        return self.says("journalctl", "--quiet", "--no-pager", "-o", "cat", "-u", "spantoll")


@contextmanager
def booted(root: Path) -> Iterator[Machine]:
    process = subprocess.Popen(nspawn(root, "--private-network", "--boot"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        leader = eventually(lambda: children.read_text().split(), what="systemd begins")[0]
        machine = Machine(root, int(leader))
        eventually(
            lambda: machine.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), what="the machine has booted"
        )
        yield machine
    finally:
        process.send_signal(signal.SIGTERM)  # which nspawn passes on as an orderly power-off
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_SECONDS)


def test_a_machine_from_nothing_to_uninstalled(tmp_path: Path) -> None:
    """Installed, booted, used, killed, upgraded, misconfigured, stopped, taken away: what was acknowledged is there until it is purged."""
    needs(("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux"))
    with fresh_debian(tmp_path) as root:
        installed = subprocess.run(
            nspawn(root, "--pipe", "/root/spantoll/deploy/install.sh"), capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        assert installed.returncode == 0, installed.stdout + installed.stderr
        assert "starts at the next boot" in installed.stdout
        config = root / "etc" / "spantoll" / "config.toml"
        assert config.stat().st_mode & 0o777 == 0o640
        config.write_text(config.read_text() + "# mine\n")
        with booted(root) as machine:
            verified = machine.run("systemd-analyze", "verify", "/etc/systemd/system/spantoll.service")
            assert verified.returncode == 0, verified.stdout + verified.stderr
            eventually(machine.ready, what="the service is ready after the boot")

            status = machine.says("sh", "-c", f"cat /proc/{machine.property('MainPID')}/status")
            facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert facts["Uid"].split()[0] != "0"
            assert (facts["CapEff"], facts["CapBnd"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")

            (root / "root" / "body").write_bytes(export(agent(1, 1), model_call(1, 2, parent=1)))
            send = ("curl", "-sf", "-H", "Content-Type: application/x-protobuf", "--data-binary", "@/root/body", "localhost:4318/v1/traces")
            machine.says(*send)
            assert machine.metric("spantoll_receiver_accepted_spans_total") == 2

            machine.says("systemctl", "reload", "spantoll")
            eventually(lambda: "SIGHUP" in machine.log(), what="it heard the reload")

            machine.says("systemctl", "kill", "--signal=SIGKILL", "spantoll")
            eventually(lambda: machine.property("NRestarts") == "1" and machine.ready(), what="it was started again")
            machine.says(*send)
            assert machine.metric("spantoll_receiver_duplicate_spans_total") == 2, "what was acknowledged is known after the kill"

            assert "right" in machine.run("spantoll", "check-config").stderr
            machine.says("spantoll", "credit", "adjust", "default", "--msat", "1000", "--id", "from-root")
            assert machine.metric("spantoll_credit_topped_up_msat_total") > 0, "a verb run by root reaches the daemon"
            owners = machine.says("find", "/var/lib/spantoll", "-printf", "%u\n")
            assert set(owners.splitlines()) == {"spantoll"}

            releases = Path(root / "opt" / "spantoll" / "releases")
            before = set(releases.iterdir())
            upgraded = machine.run("/root/spantoll/deploy/install.sh", network=True)
            assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
            after = set(releases.iterdir())
            assert len(after) == 2 > len(before)
            assert config.read_text().endswith("# mine\n")
            eventually(machine.ready, what="the new version is ready")

            right = config.read_text()
            config.write_text(right + "[otlp.grpx]\n")
            refused = machine.run("/root/spantoll/deploy/install.sh", network=True)
            assert (refused.returncode, "mend it" in refused.stderr) == (1, True), refused.stderr
            assert set(releases.iterdir()) == after, "a refused upgrade leaves nothing behind"
            assert machine.ready(), "and the running version running"
            machine.run("systemctl", "restart", "spantoll")
            eventually(lambda: machine.property("ActiveState") == "failed", what="a wrong configuration is not tried again")
            assert (machine.property("ExecMainStatus"), machine.property("NRestarts")) == ("2", "0")
            config.write_text(right)
            machine.says("systemctl", "restart", "spantoll")
            eventually(machine.ready, what="it is ready again")

            machine.says("systemctl", "stop", "spantoll")
            assert (machine.property("Result"), machine.property("ExecMainStatus")) == ("success", "0")
            assert "told to stop" in machine.log()

            machine.says("/root/spantoll/deploy/install.sh", "--uninstall")
            left = [
                path for path in ("opt/spantoll", "usr/local/bin/spantoll", "etc/systemd/system/spantoll.service") if (root / path).exists()
            ]
            assert not left
            assert (root / "var/lib/spantoll/spantoll.db").exists()
            assert config.exists()
            machine.says("/root/spantoll/deploy/install.sh", "--uninstall", "--purge")
            assert not (root / "var/lib/spantoll").exists()
            assert not config.exists()
            assert machine.run("id", "spantoll").returncode == 1


def test_the_image_is_built_and_runs(tmp_path: Path) -> None:
    """Each step of the Dockerfile, on Debian in place of the Python image: it starts as nobody, is healthy, and its books are its own."""
    needs(("buildah", "buildah"), ("unshare", "util-linux"))
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "graph"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *words], env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout.strip()

    context = tmp_path / "context"
    clone_into(context)
    (context / "deploy/docker/secrets").mkdir()
    (context / "deploy/docker/secrets/operator").write_text("a key that must not be in the image")
    try:
        base = buildah("from", "scratch")
        buildah("add", "--quiet", base, str(BASE), "/")
        buildah("commit", "--quiet", base, "localhost/debian")
        binds = [word for path in NETWORK for word in ("--volume", f"{path.resolve()}:{path}:ro")]
        docker = context / "deploy" / "docker"
        stand_in = ("--build-arg", "PYTHON_IMAGE=localhost/debian", *binds)
        files = ("--ignorefile", str(docker / "Dockerfile.dockerignore"), "--file", str(docker / "Dockerfile"))
        buildah("bud", "--format", "docker", *stand_in, *files, "--tag", "localhost/spantoll", str(context))
        container = buildah("from", "localhost/spantoll")
        script = f"""
            set -eu
            ip link set lo up
            inside="buildah run {container} --"
            $inside spantoll serve &
            until $inside python3 /opt/spantoll/healthcheck.py; do sleep 0.5; done
            echo "user $($inside id -u)"
            echo "books $($inside stat -c %a:%u /data/spantoll-data)"
            echo "left over $($inside sh -c 'ls -d /src /opt/spantoll/deploy /data/secrets 2>/dev/null || true')."
            $inside sh -c 'kill -TERM $(cat /data/spantoll-data/lock)'
            wait
            if $inside python3 /opt/spantoll/healthcheck.py; then echo healthy; else echo unhealthy; fi
        """
        # a network namespace of its own, for its ports are fixed
        ran = subprocess.run(
            ["unshare", "--net", "bash", "-c", script], env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        said = ran.stdout.splitlines()
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert {"user 10001", "books 700:10001", "left over .", "unhealthy"} <= set(said), said
        assert '"message": "told to stop' in ran.stderr
    finally:
        subprocess.run(["buildah", "rm", "--all"], env=env, capture_output=True, timeout=INSTALL_SECONDS, check=False)
        shutil.rmtree(tmp_path / "graph", ignore_errors=True)
