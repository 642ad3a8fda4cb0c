#!/usr/bin/env bash
# A Docker engine where there is none: for `make image`, its tests, and clusters of kind.
#
#   e2e/docker.sh up              where Docker answers already: does nothing. Otherwise installs it (root, Debian) and starts it
#   e2e/docker.sh down [--purge]  undoes what `up` did, and nothing else; images and packages stay for the next time,
#                                 but for --purge
#   e2e/docker.sh status          says which it is; fails where Docker doesn't answer
#
# All that it keeps is in $DSET_CACHE/docker, by default ~/.cache/disaggregatedset/docker.
set -euo pipefail

readonly STATE="${DSET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/disaggregatedset}/docker"
readonly PIDFILE="$STATE/dockerd.pid" LOG="$STATE/dockerd.log" WRAPPER="$STATE/runc"
readonly PACKAGES=(docker.io iptables iproute2)
# Bit of CAP_SYS_RESOURCE in the masks of /proc/self/status.
readonly SYS_RESOURCE=24

say() { echo "docker.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

answers() { command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null; }

# The daemon that `up` started; a process that got its number since is none.
our_daemon() {
  local pid
  pid="$(cat "$PIDFILE" 2>/dev/null)" && [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == dockerd ]] && echo "$pid"
}

lacks_sys_resource() {
  local mask
  mask="$(awk '/^CapBnd:/ {print $2}' /proc/self/status)"
  (( (16#$mask >> SYS_RESOURCE & 1) == 0 ))
}

install_docker() {
  command -v dockerd >/dev/null && command -v iptables >/dev/null && command -v ip >/dev/null && return
  command -v apt-get >/dev/null || fail "there is no Docker, and only Debian's packages are known here: install it"
  say "installing ${PACKAGES[*]}"
  apt-get update -qq
  installed_packages >"$STATE/before"
  # Without a run level Debian's maintainer scripts start no service: the daemon is to be ours.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${PACKAGES[@]}" \
    >"$STATE/apt.log" 2>&1 || { tail -n 20 "$STATE/apt.log" >&2; fail "apt-get failed"; }
  # All that came with it too, and nothing that was there.
  installed_packages | comm -13 "$STATE/before" - >>"$STATE/installed"
  rm "$STATE/before"
}

installed_packages() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '/^ii/ {print $2}' | LC_ALL=C sort; }

# Where a host lacks CAP_SYS_RESOURCE no container can have it, so privileged ones would fail ("unable to apply caps").
write_wrapper() {
  local python
  python="$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')"
  cat >"$WRAPPER" <<PYTHON
#!$python -IS
"""runc, that asks for all capabilities but CAP_SYS_RESOURCE, which this host doesn't have."""
import json, os, sys

arguments = sys.argv[1:]
for flag, value in zip(arguments, arguments[1:]):
    if flag in ("--bundle", "-b"):
        path, field = os.path.join(value, "config.json"), "process"
    elif flag in ("--process", "-p"):
        path, field = value, None
    else:
        continue
    with open(path) as file:
        document = json.load(file)
    process = document[field] if field else document
    for names in (process.get("capabilities") or {}).values():
        names[:] = [name for name in names if name != "CAP_SYS_RESOURCE"]
    with open(path, "w") as file:
        json.dump(document, file)
os.execv("$(command -v runc)", ["runc", *arguments])
PYTHON
  chmod +x "$WRAPPER"
}

configure() {
  local runtime=""
  if lacks_sys_resource; then
    write_wrapper
    runtime=', "default-runtime": "dset", "runtimes": {"dset": {"path": "'"$WRAPPER"'"}}'
  fi
  cat >"$STATE/daemon.json" <<JSON
{"data-root": "$STATE/data", "exec-root": "$STATE/exec", "pidfile": "$PIDFILE", "log-opts": {"max-size": "10m"}$runtime}
JSON
}

# What the daemon will change on this machine, beside its own files.
remember_network() {
  {
    echo "forwarding=$(cat /proc/sys/net/ipv4/ip_forward)"
    echo "policy=$(iptables -S FORWARD | awk '/^-P/ {print $3}')"
  } >"$STATE/network"
}

forget_network() {
  [[ -f "$STATE/network" ]] || return 0
  local forwarding policy bridge
  # shellcheck source=/dev/null
  source "$STATE/network"
  for bridge in $(ip -o link show type bridge | grep -oE '\b(docker0|br-[0-9a-f]{12})\b' | sort -u); do
    ip link delete "$bridge"
  done
  iptables-save | grep -vE 'DOCKER|docker0|br-[0-9a-f]{12}' | iptables-restore
  iptables -P FORWARD "$policy"
  echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
  rm "$STATE/network"
}

up() {
  local version pid
  if version="$(answers)"; then
    say "Docker $version answers already"
    return
  fi
  (( EUID == 0 )) || fail "Docker doesn't answer, and starting it takes root: start it, or run this by sudo"
  mkdir -p "$STATE"
  install_docker
  configure
  remember_network
  rm -f "$PIDFILE"
  # Without the lock of this script, which would be held for as long as the daemon lives.
  setsid dockerd --config-file "$STATE/daemon.json" >"$LOG" 2>&1 </dev/null 9>&- &
  pid=$!
  for _ in {1..120}; do
    if version="$(answers)"; then
      say "started Docker $version (log: $LOG)"
      return
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  tail -n 20 "$LOG" >&2
  down
  fail "Docker doesn't start; its log is $LOG"
}

down() {
  local pid packages
  if pid="$(our_daemon)"; then
    kill "$pid"
    # It ends its containers first, which have 10 s each.
    for _ in {1..120}; do
      [[ -d "/proc/$pid" ]] || break
      sleep 0.5
    done
    [[ -d "/proc/$pid" ]] && fail "dockerd ($pid) doesn't end; its log is $LOG"
    # It leaves its own network namespace mounted.
    awk -v exec="$STATE/exec/" 'index($2, exec) == 1 {print $2}' /proc/mounts | xargs --no-run-if-empty umount
    say "stopped Docker"
  else
    say "no Docker of this script is running"
  fi
  forget_network
  if [[ "${1:-}" == --purge ]]; then
    if [[ -f "$STATE/installed" ]]; then
      mapfile -t packages <"$STATE/installed"
      DEBIAN_FRONTEND=noninteractive apt-get purge -qq -y "${packages[@]}" >/dev/null
      say "removed ${packages[*]}"
    fi
    rm -rf "$STATE"
  fi
}

status() {
  local version pid
  version="$(answers)" || { echo "Docker doesn't answer"; return 1; }
  if pid="$(our_daemon)"; then
    echo "Docker $version, started by this script (process $pid)"
  else
    echo "Docker $version, not of this script"
  fi
}

# One of these at a time: two `up` at once would start two daemons.
locked() {
  mkdir -p "$STATE"
  exec 9>"$STATE/../.docker.lock"
  flock 9
  "$@"
}

case "${1:-}" in
  up) locked up ;;
  down) locked down "${2:-}" ;;
  status) status ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
