#!/usr/bin/env bash
# Run Spantoll as a systemd service of this machine, or bring it up to date with this clone.
#
#   sudo deploy/install.sh                    install or upgrade; nothing that you configured is overwritten
#   sudo deploy/install.sh --fast             the same with the extra `fast` (uvloop, isal, the native gRPC server)
#   sudo deploy/install.sh --uninstall        take program and service away; configuration and books stay
#   sudo deploy/install.sh --uninstall --purge    take those away, too: balances and recorded charges are lost
#
# Makes: the user `spantoll`, /opt/spantoll (a virtual environment for each version), /etc/spantoll/config.toml,
# /var/lib/spantoll (the books), /etc/systemd/system/spantoll.service and the command /usr/local/bin/spantoll.
# Needs: systemd, Python 3.11 or newer with venv, and what pip is configured to install from. `PYTHON=` names another Python.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
clone=$(dirname "$here")
program=/opt/spantoll
settings=/etc/spantoll
books=/var/lib/spantoll
unit=/etc/systemd/system/spantoll.service
command=/usr/local/bin/spantoll
user=spantoll

say() { printf '%s\n' "$*"; }
stop() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
systemd_runs() { [ -d /run/systemd/system ]; }

uninstall() {
    if systemd_runs; then
        systemctl disable --now spantoll.service 2>/dev/null || true
    else
        rm -f /etc/systemd/system/multi-user.target.wants/spantoll.service
    fi
    rm -rf "$unit" "$command" "$program"
    if systemd_runs; then
        systemctl daemon-reload
        systemctl reset-failed spantoll.service 2>/dev/null || true
    fi
    if [ "$purge" = yes ]; then
        rm -rf "$settings" "$books"
        if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
        say "Spantoll is gone, with its configuration and its books."
    else
        say "Spantoll is gone. Its configuration ($settings) and its books ($books) are still there."
    fi
}

# A version is complete before `current` points to it, so a failed installation leaves the running one as it is.
install_program() {
    local previous
    release=$program/releases/$(date -u +%Y%m%dT%H%M%SZ)-$$
    install -d -m 0755 "$program" "$program/releases"
    trap 'rm -rf "$release"' EXIT
    say "Installing into $release ..."
    "$python" -m venv "$release"
    "$release/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt" "$clone$extra"
    "$release/bin/spantoll" --version
    prepare_settings "$release"
    previous=$(readlink "$program/current" || true)
    ln -sfn "$release" "$program/current.new"
    mv -Tf "$program/current.new" "$program/current"
    trap - EXIT
    # the one before stays until the next upgrade: to go back is to point `current` to it, with a backup of its own time
    find "$program/releases" -mindepth 1 -maxdepth 1 ! -path "$release" ! -path "${previous:-/none}" -exec rm -rf {} +
}

prepare_settings() {
    local new
    getent group "$user" >/dev/null || groupadd --system "$user"
    id "$user" >/dev/null 2>&1 ||
        useradd --system --gid "$user" --home-dir "$books" --no-create-home --shell /usr/sbin/nologin "$user"
    install -d -m 0750 -o root -g "$user" "$settings"
    install -d -m 0700 -o "$user" -g "$user" "$books"
    if [ ! -e "$settings/config.toml" ]; then
        new=$settings/config.toml.new
        (umask 027 && sed "s|^directory = .*|directory = \"$books\"|" "$clone/config.toml" >"$new")
        chown root:"$user" "$new"
        mv "$new" "$settings/config.toml"
    fi
    "$1/bin/spantoll" check-config --config "$settings/config.toml" >/dev/null ||
        stop "this version cannot run with $settings/config.toml: mend it and run this again (nothing was changed so far)"
}

# As the service's user, so that what a verb writes into the books' folder belongs to the daemon.
install_command() {
    cat >"$command.new" <<'END'
#!/bin/sh
# Written by deploy/install.sh: the verbs of Spantoll with the service's configuration, as the service's user.
: "${SPANTOLL_CONFIG:=/etc/spantoll/config.toml}"
export SPANTOLL_CONFIG
if [ "$(id -u)" = 0 ]; then
    exec runuser -u spantoll -- /opt/spantoll/current/bin/spantoll "$@"
fi
exec /opt/spantoll/current/bin/spantoll "$@"
END
    chmod 0755 "$command.new"
    mv "$command.new" "$command"
}

start() {
    install -m 0644 "$here/systemd/spantoll.service" "$unit"
    if ! systemd_runs; then
        install -d /etc/systemd/system/multi-user.target.wants
        ln -sfn "$unit" /etc/systemd/system/multi-user.target.wants/spantoll.service
        say "systemd does not run here: the service starts at the next boot."
        return
    fi
    systemctl daemon-reload
    systemctl enable --quiet spantoll.service
    systemctl reset-failed spantoll.service 2>/dev/null || true
    systemctl restart spantoll.service
    for _ in $(seq 60); do # replay of a large journal may take longer; the service goes on with it all the same
        if runs; then return; fi
        systemctl is-active --quiet spantoll.service || stop "the service did not stay up: journalctl -u spantoll -n 50"
        sleep 0.5
    done
    say "It runs, and is not ready yet: journalctl -u spantoll -f"
}

runs() { [ "$(systemctl show -p ActiveState --value spantoll.service)" = active ] && journal_says_ready; }
journal_says_ready() {
    local since
    since=$(systemctl show -p InvocationID --value spantoll.service)
    journalctl --quiet --no-pager -o cat "_SYSTEMD_INVOCATION_ID=$since" 2>/dev/null | grep -q '"message": *"ready"'
}

next_steps() {
    cat <<'END'

Spantoll is installed.
  state              systemctl status spantoll; journalctl -u spantoll -f
  configuration      /etc/spantoll/config.toml, then: spantoll check-config && systemctl restart spantoll
  send               OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
  look               curl -s localhost:8102/metrics | grep spantoll_cost_usd_total
  alerts, dashboard  deploy/prometheus, deploy/grafana
It listens on this machine only. To serve others: certificates, keys and names in config.toml; it refuses to start without them.
END
}

release='' purge=no extra='' action=install
for word in "$@"; do
    case $word in
    --fast) extra='[fast]' ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) stop "unknown option $word (--fast, --uninstall, --purge, --help)" ;;
    esac
done
[ "$purge" = no ] || [ "$action" = uninstall ] || stop "--purge goes with --uninstall"
[ "$(id -u)" = 0 ] || stop "needs root: sudo $0 $*"
if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || stop "Python 3.11 or newer is needed (PYTHON=/path/to/python3 names one)"
"$python" -c 'import ensurepip' 2>/dev/null || stop "this Python has no venv module: on Debian and Ubuntu, apt-get install python3-venv"
command -v systemctl >/dev/null || stop "systemd is not installed; deploy/docker and deploy/kubernetes are the other ways"
install_program
install_command
start
next_steps
