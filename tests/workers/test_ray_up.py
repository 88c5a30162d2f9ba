"""`ray up` with the commands of cluster.yaml, on hosts that are folders of this machine: ssh and rsync are scripts that
do what they are asked here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import DEADLINE, RAY, Place, free_port, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEAD, *WORKERS = "127.0.0.1 127.0.0.2 127.0.0.3".split()

SSH = """#!/bin/bash
args=("$@"); n=0
while [ $n -lt ${#args[@]} ]; do
  case "${args[$n]}" in
    -i|-o|-p|-L|-F|-J|-l) n=$((n+2));;
    -*) n=$((n+1));;
    *) target="${args[$n]}"; n=$((n+1)); break;;
  esac
done
export HOME=$HOSTS/${target#*@}
mkdir -p "$HOME/.pnst/bin"; cp "$HOSTS/ray.sh" "$HOME/.pnst/bin/ray"; cd "$HOME"
echo "export PATH=$PATH" > .bashrc
exec bash -c "${args[*]:$n}" </dev/null
"""
RSYNC = """#!/bin/bash
place() { case "$1" in
  *@*:*) host="${1#*@}"; host="${host%%:*}"; echo "${1#*:}" | sed "s#^~#$HOSTS/$host#";;
  *) echo "${1/#\\~/$HOME}";;
esac; }
from=$(place "${@: -2:1}"); to=$(place "${@: -1}")
mkdir -p "$(dirname "$to")"; cp -r "$from" "$to"
"""
STARTED = """#!/bin/bash
[ "$1" = start ] || exit 0
name=$(basename "$HOME")
echo "$name ${OMP_NUM_THREADS:-none} ${RAY_worker_niceness:-none} $*" >> "$HOSTS/started"
exec {python} -m ray.scripts.scripts "$@" --node-ip-address="$name" --num-cpus=1 --object-store-memory=100000000
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    folder = tmp_path / "hosts"
    for path, text in {
        "bin/ssh": SSH,
        "bin/rsync": RSYNC,
        "ray.sh": STARTED.replace("{python}", sys.executable),
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return folder


def configuration(port: int) -> dict[str, Any]:
    """The shipped one, but for addresses, for what needs a network to install, and for a token on a machine that may
    have one."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    config["provider"] |= {"head_ip": HEAD, "worker_ips": WORKERS}
    config["auth"] = {"ssh_user": "someone"}
    config |= {"setup_commands": [], "file_mounts": {}}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        replaced = [command.replace("6379", str(port)) for command in config[key]]
        replaced = [command.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled") for command in replaced]
        config[key] = [
            command.replace("--dashboard-host=127.0.0.1", "--include-dashboard=false") for command in replaced
        ]
    return config


def test_every_host_is_started_with_its_own_threads_and_without_niceness(place: Place, hosts: Path) -> None:
    """The newer autoscaler would leave one worker out, `ray up` would give each a single thread."""
    file = place.folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(configuration(free_port())))
    more = {"HOSTS": str(hosts), "PATH": f"{hosts / 'bin'}:{os.environ['PATH']}"}
    up = place.start(*RAY, "up", "-y", "--no-config-cache", str(file), output=subprocess.PIPE, **more)
    told, _ = up.communicate(timeout=DEADLINE)
    assert up.returncode == 0, told
    started = hosts / "started"
    until(lambda: len(started.read_text().splitlines()) == 3, "the head and both workers are started")
    for line in started.read_text().splitlines():
        name, threads, niceness, *command = line.split()
        assert (threads, niceness) == ("none", "0")
        assert ("--head" in command) == (name == HEAD)
    until(lambda: len(place.called("raylet")) == 3, "three raylets")
