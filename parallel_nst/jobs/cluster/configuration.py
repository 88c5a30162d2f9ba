"""What is wrong with a configuration for `ray up`: what Ray refuses, and what it takes and runs badly with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_nst.errors import BadInput
from parallel_nst.workers import freed_memory

TOKEN = ".ray/auth_token"
MALLOC = [f"{name}={value}" for name, value in freed_memory.ENVIRONMENT.items()]
NIGHTLY = re.compile(r"ray-wheels/|\.dev0")
INSTALLED = re.compile(r"(?<![\w./-])ray(?:\[[\w,-]+\])?(?:==([\w.]+))?(?=['\"\s;&]|$)")  # what pip is asked for
PYTHON = re.compile(r"\bpython(3\.\d+)\b|--python[ =](3\.\d+)")
ANY_PYTHON = re.compile(r"\bpython3?(?![\w.])")
IMAGE = re.compile(r"rayproject/ray(?:-ml)?:(\d+\.\d+\.\d+)(?:-py(3)(\d+))?")
OPEN = re.compile(r"--dashboard-host[ =](0\.0\.0\.0|::|\[::\]|\*)(?!\S)")


@dataclass(frozen=True)
class Host:
    """What is done on one kind of host. role: head, or worker with the name of its type. setup: commands that install,
    start: that start Ray; image: of its container."""

    role: str
    setup: Sequence[str]
    start: Sequence[str]
    image: str | None

    @property
    def starting(self) -> str:
        """The commands that bring Ray up, as one text."""
        return "\n".join(command for command in self.start if "ray start" in command)

    @property
    def rays(self) -> set[str]:
        """Versions of Ray that the setup and the image name; '' for one that pip chooses."""
        asked = [found for command in self.setup if "install" in command for found in INSTALLED.findall(command)]
        image = IMAGE.search(self.image or "")
        return {*asked, *([image[1]] if image else [])}

    @property
    def pythons(self) -> set[str]:
        """Minor versions of Python that the setup and the image name."""
        image = IMAGE.search(self.image or "")
        named = {first or second for command in self.setup for first, second in PYTHON.findall(command)}
        return named | ({f"{image[2]}.{image[3]}"} if image and image[2] else set())


def faults_of_configuration(config: Mapping[str, Any]) -> Iterator[str]:
    """A line for each, first what Ray refuses; the rest is looked at only where it refuses nothing."""
    from parallel_nst.workers.ray.launcher import RAY_VERSION, completed  # Ray is loaded only for this

    try:
        complete = completed(config)
    except BadInput as error:
        yield f"{error}; ray up refuses this"
        return
    hosts = hosts_of(complete)
    for host in hosts:
        yield from faults_of_setup(host, RAY_VERSION)
        yield from faults_of_start(host)
    yield from faults_between(hosts)
    yield from faults_of_head(hosts[0], local=complete["provider"]["type"] == "local")
    yield from faults_of_token(hosts, complete["file_mounts"])
    yield from faults_of_size(complete)


def hosts_of(complete: Mapping[str, Any]) -> list[Host]:
    """The head, and every other type of node."""
    docker, types, head = complete.get("docker") or {}, complete["available_node_types"], complete["head_node_type"]
    common = docker.get("image")

    def image_of(name: str, role: str) -> str | None:
        own = types[name].get("docker") or {}
        found: str | None = own.get(f"{role}_image") or own.get("image") or docker.get(f"{role}_image") or common
        return found

    found = [Host("head", complete["head_setup_commands"], complete["head_start_ray_commands"], image_of(head, "head"))]
    others = [name for name in types if name != head] or [head]
    for name in others:
        setup = types[name].get("worker_setup_commands", complete["worker_setup_commands"])
        role = "worker" if len(others) == 1 else f"worker {name}"
        found.append(Host(role, setup, complete["worker_start_ray_commands"], image_of(name, "worker")))
    return found


def faults_of_setup(host: Host, ray: str) -> Iterator[str]:
    """ray: the version that is here."""
    said = "\n".join(host.setup)
    if NIGHTLY.search(said):
        yield (
            f"{host.role}: its setup installs a nightly Ray, as Ray's defaults do; give setup_commands of your own, "
            f"with 'ray[default]=={ray}'"
        )
        return
    rays = host.rays
    if "" in rays or (not rays and not host.image):
        yield f"{host.role}: its setup installs no fixed version of Ray; give setup_commands with 'ray[default]=={ray}'"
    for other in sorted(rays - {"", ray}):
        yield f"{host.role}: has Ray {other}, this machine {ray}; they must be the same"
    if host.image and (":" not in host.image.rpartition("/")[2] or host.image.endswith(":latest")):
        yield f"{host.role}: image {host.image} can be another one on each machine; give it a tag other than latest"
    if not host.image and not host.pythons and ANY_PYTHON.search(said):
        yield f"{host.role}: python3 can be another version on each host; name it, such as python3.12"


def faults_of_start(host: Host) -> Iterator[str]:
    """What its start commands lack or should not have."""
    start = host.starting
    if not start:
        yield f"{host.role}: no command starts Ray; give {host.role.split()[0]}_start_ray_commands with ray start"
        return
    if "unset OMP_NUM_THREADS" not in start:
        yield (
            f"{host.role}: ray up sets OMP_NUM_THREADS to 1 for all that runs there; put 'unset OMP_NUM_THREADS;' "
            "before ray start"
        )
    if "RAY_worker_niceness=0" not in start:
        yield (f"{host.role}: Ray's workers run at niceness 15, behind all; put RAY_worker_niceness=0 before ray start")
    if not all(setting in start for setting in MALLOC):
        yield (
            f"{host.role}: workers give the memory of large arrays back whenever one is freed, and take an eighth more "
            f"time; put {' '.join(MALLOC)} before ray start"
        )
    if OPEN.search(start):
        yield (
            f"{host.role}: the dashboard, which runs whatever it is sent, listens to every network; give "
            "--dashboard-host=127.0.0.1 and use ray dashboard"
        )


def faults_between(hosts: Sequence[Host]) -> Iterator[str]:
    """Versions that differ."""
    rays = {host.role: host.rays - {""} for host in hosts}
    for name, named in (("Ray", rays), ("Python", {host.role: host.pythons for host in hosts})):
        if len(set().union(*named.values())) > 1:
            told = ", ".join(f"{role} {' and '.join(sorted(found))}" for role, found in named.items() if found)
            yield f"versions of {name} differ ({told}); they must be the same on all hosts"


def faults_of_head(head: Host, *, local: bool) -> Iterator[str]:
    """What only the head's start command must have."""
    if head.starting and "--autoscaling-config" not in head.starting:
        yield "head: ray start lacks --autoscaling-config=~/ray_bootstrap_config.yaml, so that no worker is started"
    if head.starting and local and "RAY_enable_autoscaler_v2=0" not in head.starting:
        yield (
            "head: one of worker_ips is never started, because Ray's newer autoscaler counts the head as a worker on "
            "hosts of your own; put RAY_enable_autoscaler_v2=0 before ray start"
        )


def faults_of_token(hosts: Sequence[Host], mounts: Mapping[str, str]) -> Iterator[str]:
    """What lets strangers in, or the cluster's own machines not."""
    without = [host.role for host in hosts if host.starting and "RAY_AUTH_MODE=token" not in host.starting]
    if without:
        yield (
            f"{', '.join(without)}: whoever reaches its ports can run programs there; put RAY_AUTH_MODE=token before "
            "ray start"
        )
    elif not any(place.endswith(TOKEN) for place in mounts):
        yield f"file_mounts: the token is not sent to the hosts, which would refuse each other; add ~/{TOKEN}"


def faults_of_size(complete: Mapping[str, Any]) -> Iterator[str]:
    """A cluster without workers: a run takes the machines that are there and waits for none to be bought."""
    if not any(kind.get("min_workers", 0) for kind in complete["available_node_types"].values()):
        yield "min_workers is 0 for every type of node, and a run waits for none; give as many as it is to use"
