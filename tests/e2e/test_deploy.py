"""deploy/: what it says fits the daemon, is safe as it stands, and is of the form that its readers want."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from receiver.config import Config, load, parse_endpoint
from receiver.config.units import parse_duration
from receiver.web.operator import operator_routes
from tests.e2e.daemon import PATIENCE_SECONDS, daemon
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
DEPLOY = Path(__file__).parents[2] / "deploy"
#: Beside the drain: the last snapshot, the last commit, and a machine that is busy with a shutdown.
MARGIN_SECONDS = 30
#: systemd's figure for the unit is 1.1 of 10, of which 0.8 is that it has a network; the threshold is in tenths.
EXPOSURE_THRESHOLD = "11"


def documents(path: Path) -> list[dict[str, Any]]:
    need(importlib.util.find_spec("yaml"), "PyYAML is not installed")
    import yaml

    return list(yaml.safe_load_all(path.read_text()))


def unit() -> dict[str, str]:
    """The keys of the unit; of one that stands several times the last."""
    lines = (DEPLOY / "systemd" / "spantoll.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))  # type: ignore[misc]  # two parts


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# --- systemd -----------------------------------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, with programs that are on this machine."""
    analyze = need_program("systemd-analyze", "systemd")
    text = (DEPLOY / "systemd" / "spantoll.service").read_text().replace("/opt/spantoll/current/bin/spantoll", sys.executable)
    (tmp_path / "spantoll.service").write_text(text)
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "spantoll.service")], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_unit_exposes_little() -> None:
    """The sandbox, as systemd judges it, does not get worse."""
    analyze = need_program("systemd-analyze", "systemd")
    limits = ["--offline=yes", f"--threshold={EXPOSURE_THRESHOLD}", "--no-pager"]
    path = str(DEPLOY / "systemd" / "spantoll.service")
    judged = subprocess.run([analyze, "security", *limits, path], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout


def test_the_unit_never_loops() -> None:
    """A wrong configuration (2) is not tried again, and failures that come fast end in the state `failed`."""
    keys = unit()
    assert (keys["Restart"], keys["RestartPreventExitStatus"]) == ("on-failure", "2")
    fastest = parse_duration(keys["RestartSec"]) * int(keys["StartLimitBurst"])
    assert fastest < parse_duration(keys["StartLimitIntervalSec"].replace("min", "m")), "the limit could never be reached"


def test_every_stop_is_longer_than_the_drain() -> None:
    """systemd, compose and Kubernetes wait for requests in flight and then some, before they kill."""
    least = Config().shutdown.drain_timeout + MARGIN_SECONDS
    assert parse_duration(unit()["TimeoutStopSec"]) >= least
    (compose,) = documents(DEPLOY / "docker" / "compose.yml")
    assert parse_duration(compose["services"]["spantoll"]["stop_grace_period"]) >= least
    (pods,) = documents(DEPLOY / "kubernetes" / "statefulset.yaml")
    assert pods["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= least


def test_memory_limits_leave_room_for_the_daemons_own() -> None:
    """A process that keeps to its own limits is not killed by ours: window, resend ids, requests in flight, and as much again."""
    config = Config()
    own = config.window.max_bytes + config.window.seen_max_bytes + config.otlp.max_in_flight
    assert own == 768 << 20, "the comments in deploy/ say 768 MiB"
    (compose,) = documents(DEPLOY / "docker" / "compose.yml")
    (pods,) = documents(DEPLOY / "kubernetes" / "statefulset.yaml")
    limits = (
        compose["services"]["spantoll"]["mem_limit"],
        pods["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"],
    )
    assert (unit()["MemoryMax"], *limits) == ("2G", "2g", "2Gi")


# --- the installer -----------------------------------------------------------------------------------------------------------------


def test_scripts_are_sound() -> None:
    """Nothing in them is found by shellcheck."""
    shellcheck = need_program("shellcheck", "shellcheck")
    scripts = [str(DEPLOY / "install.sh"), str(DEPLOY / "docker" / "setup")]
    checked = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("words", "says"), [(["--help"], "--purge"), (["--pruge"], "unknown option --pruge"), (["--purge"], "goes with")])
def test_the_installer_tells_what_it_takes(words: list[str], says: str) -> None:
    """Help, a misspelt option, and an option that would delete books by mistake: said, and nothing is done."""
    told = subprocess.run([str(DEPLOY / "install.sh"), *words], capture_output=True, text=True, check=False)
    assert told.returncode == (0 if words == ["--help"] else 1)
    assert says in told.stdout + told.stderr


# --- docker ------------------------------------------------------------------------------------------------------------------------


def test_the_dockerfile_copies_what_there_is_and_what_is_let_in() -> None:
    """Each path exists and is in the builder's context; keys and books are not."""
    folder = DEPLOY / "docker"
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", (folder / "Dockerfile").read_text())
    let_in = {line[1:] for line in (folder / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    paths = {path for line in copied for path in line.split()}
    assert paths == let_in
    assert all((DEPLOY.parent / path).exists() for path in paths)


def test_the_health_check_tells_ready_from_not(tmp_path: Path) -> None:
    """0 while exports are taken; 1 when the daemon is gone."""
    script = str(DEPLOY / "docker" / "healthcheck.py")

    def check(url: str) -> int:
        return subprocess.run([sys.executable, script], env={**os.environ, "SPANTOLL_HEALTH_URL": url}, check=False, timeout=60).returncode

    with daemon(tmp_path) as one:
        page = f"{one.operator}/-/ready"
        assert check(page) == 0
        assert check(f"{one.operator}/-/no-such-page") == 1
    assert check(page) == 1


def set_up(folder: Path) -> dict[str, str]:
    """Run deploy/docker/setup in a copy; the variables that compose would read."""
    shutil.copytree(DEPLOY / "docker", folder, ignore=shutil.ignore_patterns("secrets", ".env"))
    subprocess.run([str(folder / "setup")], check=True, capture_output=True, timeout=60)
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())  # type: ignore[misc]  # two parts


def test_setup_makes_keys_once_and_for_this_user_alone(tmp_path: Path) -> None:
    """A second run changes nothing; nobody else can look into the folder; the hashes are those of the keys."""
    folder = tmp_path / "docker"
    first = set_up(folder)
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    keys = {name: (folder / "secrets" / name).read_text() for name in ("exporter", "operator", "grafana")}
    assert len(set(keys.values())) == 3
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys.values())
    assert first == {"EXPORTER_SHA256": sha256(keys["exporter"]), "OPERATOR_SHA256": sha256(keys["operator"])}
    again = subprocess.run([str(folder / "setup")], check=True, capture_output=True, text=True, timeout=60)
    assert keys["exporter"] in again.stdout, "it says what to give to exporters"
    assert {name: (folder / "secrets" / name).read_text() for name in keys} == keys


def environment(service: dict[str, Any], variables: dict[str, str]) -> dict[str, str]:
    """A compose service's environment, with its variables put in."""
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: variables[found[1]], value) for name, value in service["environment"].items()
    }  # fmt: skip


def test_the_composition_runs_with_its_own_configuration(tmp_path: Path) -> None:
    """With the keys of `setup` it is right, listens on all addresses only behind keys, and Prometheus's key opens the metrics."""
    (compose,) = documents(DEPLOY / "docker" / "compose.yml")
    env = environment(compose["services"]["spantoll"], set_up(tmp_path / "docker"))
    del env["SPANTOLL_CONFIG"]
    config = load(tmp_path / "docker" / "spantoll.toml", environ=env)
    assert parse_endpoint(config.operator.endpoint).is_wildcard
    assert config.lightning.backend == "off"
    (tmp_path / "run").mkdir()
    with daemon(tmp_path / "run", env={**env, "SPANTOLL_CONFIG": str(tmp_path / "docker" / "spantoll.toml")}) as one:

        def status(url: str, key: str = "", data: bytes | None = None) -> int:
            headers = {"Content-Type": "application/x-protobuf"} if data is not None else {}
            request = Request(url, data=data, headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}))  # noqa: S310 -- loopback
            try:
                with urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
                    return int(answer.status)
            except HTTPError as refusal:
                return refusal.code

        exporter, operator = ((tmp_path / "docker" / "secrets" / name).read_text() for name in ("exporter", "operator"))
        assert [status(f"{one.operator}/metrics", key) for key in ("", exporter, operator)] == [401, 401, 200]
        assert [status(f"{one.http}/v1/traces", key, b"") for key in ("", operator, exporter)] == [401, 401, 200]


def test_the_composition_is_reached_from_this_machine_alone() -> None:
    """Every port is published on 127.0.0.1, every container without rights, every image of a stated version, every file there."""
    (compose,) = documents(DEPLOY / "docker" / "compose.yml")
    secrets = compose["secrets"]
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert set(service.get("secrets", [])) <= secrets.keys(), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "docker" / source).exists(), volume
            else:
                assert source in compose["volumes"], volume
    (prometheus,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    (scrape,) = prometheus["scrape_configs"]
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/operator"
    assert scrape["static_configs"] == [{"targets": ["spantoll:8102"]}]
    assert scrape["job_name"] == "spantoll", "the alerts look for it"


def test_grafana_is_provisioned_with_what_the_dashboard_asks_for() -> None:
    """The data source has the uid that the dashboard begins with, and the dashboards' folder is where compose mounts the file."""
    import json

    folder = DEPLOY / "docker" / "grafana"
    (source,) = documents(folder / "datasource.yml")[0]["datasources"]
    board = json.loads((DEPLOY / "grafana" / "spantoll.json").read_text())
    first = board["templating"]["list"][0]
    assert (first["name"], first["current"]["value"]) == ("datasource", source["uid"])
    assert source["url"] == "http://prometheus:9090"
    (compose,) = documents(DEPLOY / "docker" / "compose.yml")
    (provider,) = documents(folder / "dashboards.yml")[0]["providers"]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/spantoll.json" in mounted


# --- Kubernetes --------------------------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    return [document for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for document in documents(path)]


def test_the_manifests_are_of_the_form_that_kubernetes_wants() -> None:
    """Against the API's own schemas, strictly, so that a misspelt key is none that is silently dropped."""
    need(importlib.util.find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it uses
        import kubernetes_validate

        kinds = {manifest["kind"] for manifest in manifests()}
        assert kinds == {"ConfigMap", "StatefulSet", "Service", "NetworkPolicy", "ServiceMonitor"}
        for manifest in manifests():
            if manifest["kind"] != "ServiceMonitor":
                kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_service_monitor_is_of_the_form_that_its_operator_wants() -> None:
    """Read strictly into the operator's own types; a misspelt key is refused."""
    go, folder = need_program("go", "golang"), Path(__file__).parent / "servicemonitor"
    offline = {**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=readonly"}
    there = subprocess.run(
        [go, "list", "-deps", "."], cwd=folder, env=offline, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    need(there.returncode == 0, f"the Prometheus Operator's types are not there (go -C {folder} mod download)")

    def refusal(text: str) -> str:
        return subprocess.run(
            [go, "run", "."], cwd=folder, env=offline, input=text, capture_output=True, text=True, check=False, timeout=600
        ).stderr

    text = (DEPLOY / "kubernetes" / "servicemonitor.yaml").read_text()
    assert refusal(text) == ""
    assert "intervall" in refusal(text.replace("interval:", "intervall:"))


def test_names_and_ports_fit_together() -> None:
    """Services, probes, policies and the monitor name ports of the pod; the pod listens there, and serves the pages that are probed."""
    by_kind = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests()}
    assert {manifest["metadata"]["namespace"] for manifest in by_kind.values()} == {"spantoll"}
    pod = by_kind["StatefulSet", "spantoll"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config = _config_of(by_kind["ConfigMap", "spantoll"])
    listening = {
        "otlp-grpc": config.otlp.grpc, "otlp-http": config.otlp.http, "customer": config.customer, "operator": config.operator
    }  # fmt: skip
    assert ports == {name: parse_endpoint(listener.endpoint).port for name, listener in listening.items()}
    pages = {route.path: route for route in operator_routes(None)}  # type: ignore[arg-type]  # nothing is asked of it
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert (get["port"], pages[get["path"]].is_open) == ("operator", True), probe
    labels = pod["metadata"]["labels"]
    services = [manifest for (kind, _), manifest in by_kind.items() if kind == "Service"]
    for service in services:
        assert service["spec"]["selector"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
        assert set(config.operator.allowed_hosts) | set(config.customer.allowed_hosts) >= {service["metadata"]["name"]}
    assert by_kind["StatefulSet", "spantoll"]["spec"]["serviceName"] == "spantoll-operator"
    monitor = by_kind["ServiceMonitor", "spantoll"]["spec"]
    (matched,) = (each for each in services if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items())
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in matched["spec"]["ports"]}
    assert matched["metadata"]["labels"][monitor["jobLabel"]] == "spantoll", "the alerts look for the job of this name"
    policy = by_kind["NetworkPolicy", "spantoll"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    public = [{port["port"] for port in rule["ports"]} for rule in policy["ingress"] if "from" not in rule]
    assert public == [{"otlp-grpc", "otlp-http", "customer"}]


def test_the_pod_may_do_little() -> None:
    """The restricted profile of the Pod Security Standards, a root that is not written to, and one writer of the volume."""
    (pods,) = documents(DEPLOY / "kubernetes" / "statefulset.yaml")
    pod = pods["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert pods["spec"]["replicas"] == 1
    (claim,) = pods["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile


def _config_of(config_map: dict[str, Any]) -> Config:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(config_map["data"]["config.toml"])
        file.flush()
        return load(Path(file.name), environ={})
