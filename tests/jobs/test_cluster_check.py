"""`pnst cluster check`: one line for each thing that would go wrong, none for the files that come with the project."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parallel_nst.cli import main as cli
from parallel_nst.errors import BadInput
from parallel_nst.jobs.cluster.check import check, documents_in
from parallel_nst.jobs.cluster.configuration import faults_of_configuration
from parallel_nst.jobs.cluster.manifests import definitions_in, faults_of_manifest
from parallel_nst.jobs.requests.cluster import CheckJob
from parallel_nst.workers.ray.launcher import RAY_VERSION

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "cluster.yaml", *sorted((ROOT / "examples" / "cluster").glob("*.yaml"))]
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
needs_definitions = pytest.mark.skipif(not DEFINITIONS.exists(), reason="KubeRay's resource definitions are not here")

Config = dict[str, Any]


def read(name: str) -> Config:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def commands(config: Config, change: Callable[[str], str], roles: str = "head worker") -> None:
    """Change the start commands."""
    for role in roles.split():
        key = f"{role}_start_ray_commands"
        config[key] = [change(command) for command in config[key]]


def without(text: str, roles: str = "head worker") -> Callable[[Config], None]:
    return lambda config: commands(config, lambda command: command.replace(text, ""), roles)


def setting(**values: Any) -> Callable[[Config], None]:
    return lambda config: config.update(values)


def dropping(key: str) -> Callable[[Config], None]:
    return lambda config: config.pop(key)


def setup(*lines: str) -> Callable[[Config], None]:
    return setting(setup_commands=list(lines))


INSTALL = f"~/.pnst/bin/pip install 'ray[default]=={RAY_VERSION}'"
VENV = "python3.12 -m venv ~/.pnst"

# what is done to cluster.yaml: the lines that are said, by how each begins
CONFIGURATIONS: dict[str, tuple[Callable[[Config], Any], list[str]]] = {
    "as it is": (lambda config: None, []),
    "misspelt key": (setting(worker_ips=[]), ["the file: Additional properties .*'worker_ips'.*; ray up refuses this"]),
    "no provider": (dropping("provider"), ["provider is missing; give one .*"]),
    "no head": (lambda config: config["provider"].pop("head_ip"), ["Please supply a `head_ip`.*ray up refuses this"]),
    "unknown provider": (lambda config: config["provider"].update(type="awz"), [".*awz.*; ray up refuses this"]),
    "wrong type": (setting(max_workers="four"), [".*; ray up refuses this"]),
    "provider is a text": (setting(provider="local"), ["provider is missing; .*"]),
    "another Ray": (setup(VENV, "pip install ray==2.54.0"), ["head: has Ray 2.54.0, this", "worker: has Ray 2.54.0"]),
    "any Ray": (setup(VENV, "pip install ray"), ["head: .* no fixed version of Ray", "worker: .* no fixed version"]),
    "no Ray": (setup(VENV), ["head: .* no fixed version of Ray", "worker: .* no fixed version of Ray"]),
    "two Rays": (
        setting(head_setup_commands=["pip install ray==2.54.0"]),
        ["head: has Ray 2.54.0", r"versions of Ray differ \(head 2.54.0 and .*, worker .*\)"],
    ),
    "nightly": (
        setup("pip install https://s3/ray-wheels/latest/ray-3.0.0.dev0-cp312.whl"),
        ["head: .* nightly Ray", "worker: .* nightly Ray"],
    ),
    "any Python": (setup("python3 -m venv ~/.pnst", INSTALL), ["head: python3 can be", "worker: python3 can be"]),
    "two Pythons": (
        setting(worker_setup_commands=["python3.11 -m venv x"]),
        [r"versions of Python differ \(head 3.12, worker 3.11 and 3.12\)"],
    ),
    "threads": (without("unset OMP_NUM_THREADS;", "worker"), ["worker: ray up sets OMP_NUM_THREADS to 1"]),
    "niceness": (without("RAY_worker_niceness=0", "head"), ["head: Ray's workers run at niceness 15"]),
    "arenas": (without("MALLOC_ARENA_MAX=1", "worker"), ["worker: workers give the memory of large arrays back"]),
    "open dashboard": (
        lambda config: commands(config, lambda text: text.replace("127.0.0.1", "0.0.0.0")),
        ["head: the dashboard, .* listens to every network"],
    ),
    "no autoscaler": (
        without("--autoscaling-config=~/ray_bootstrap_config.yaml"),
        ["head: ray start lacks --autoscaling-config"],
    ),
    "a worker too few": (without("RAY_enable_autoscaler_v2=0"), ["head: one of worker_ips is never started"]),
    "no token": (without("RAY_AUTH_MODE=token", "worker"), ["worker: whoever reaches its ports can run programs"]),
    "token not sent": (lambda config: config["file_mounts"].pop("~/.ray/auth_token"), ["file_mounts: the token"]),
    "no start": (setting(worker_start_ray_commands=["ray stop"]), ["worker: no command starts Ray"]),
    "no workers": (setting(min_workers=0), ["min_workers is 0 for every type of node"]),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_each_fault_of_a_configuration_is_a_line(case: str) -> None:
    change, expected = CONFIGURATIONS[case]
    config = read("cluster.yaml")
    change(config)
    found = list(faults_of_configuration(config))
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.match(pattern, line) and "\n" not in line, (pattern, line)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_defaults_for_clouds_are_not_taken_unseen(name: str) -> None:
    """What Ray would fill in: a nightly Ray, an open dashboard, no token."""
    config = read(f"examples/cluster/{name}.yaml")
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        config.pop(key)
    said = "\n".join(faults_of_configuration(config))
    for part in ("head: its setup installs a nightly", "listens to every network", "run programs there", "OMP_NUM"):
        assert part in said


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("rayproject/ray:2.54.0-py312-gpu", "head: has Ray 2.54.0"),
        (f"rayproject/ray:{RAY_VERSION}-py312", None),
        ("ghcr.io/me/pnst", "head: image ghcr.io/me/pnst can be another one on each machine"),
        ("localhost:5000/pnst:latest", "head: image localhost:5000/pnst:latest can be another"),
    ],
)
def test_versions_of_images_count(image: str, says: str | None) -> None:
    config = read("examples/cluster/aws.yaml")
    config["docker"]["image"] = image
    found = list(faults_of_configuration(config))
    assert found[0].startswith(says) if says else found == []


def test_images_of_types_of_nodes_count() -> None:
    config = read("examples/cluster/aws.yaml")
    kind = config["available_node_types"]["gpu"]
    kind["docker"] = {"worker_image": "rayproject/ray:2.54.0-py311"}
    assert list(faults_of_configuration(config)) == [
        f"worker: has Ray 2.54.0, this machine {RAY_VERSION}; they must be the same"
    ]


def cluster_of(manifest: Config) -> Config:
    return manifest["spec"]


def worker_of(manifest: Config) -> Config:
    return manifest["spec"]["workerGroupSpecs"][0]


def container_of(manifest: Config) -> Config:
    return worker_of(manifest)["template"]["spec"]["containers"][0]


MANIFESTS: dict[str, tuple[Callable[[Config], Any], list[str]]] = {
    "as it is": (lambda manifest: None, []),
    "old version": (
        lambda manifest: manifest.update(apiVersion="ray.io/v1alpha1"),
        ["apiVersion is 'ray.io/v1alpha1'"],
    ),
    "another Ray": (lambda manifest: cluster_of(manifest).update(rayVersion="2.9.0"), ["rayVersion is '2.9.0', this"]),
    "no token": (lambda manifest: cluster_of(manifest).pop("authOptions"), ["whoever reaches the head's ports"]),
    "two images": (
        lambda manifest: container_of(manifest).update(image="a:1"),
        [r"images differ \(head .*, worker cpu a:1\)"],
    ),
    "no tag": (
        lambda manifest: container_of(manifest).update(image="ghcr.io/OWNER/parallel-nst"),
        ["images differ", "worker cpu: image ghcr.io/OWNER/parallel-nst can be another"],
    ),
    "no limit": (
        lambda manifest: container_of(manifest)["resources"].pop("limits"),
        ["worker cpu: no limit of memory"],
    ),
    "shared memory": (lambda manifest: container_of(manifest).pop("volumeMounts"), ["worker cpu: /dev/shm has 64 MiB"]),
    "no pods": (lambda manifest: worker_of(manifest).update(minReplicas=0), ["worker cpu: minReplicas is 0"]),
    "empty": (
        lambda manifest: manifest.pop("spec"),
        ["rayVersion is None", "whoever reaches", "head: image None", "head: no limit"],
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_each_fault_of_a_manifest_is_a_line(case: str) -> None:
    change, expected = MANIFESTS[case]
    manifest = read("examples/cluster/raycluster.yaml")
    change(manifest)
    found = list(faults_of_manifest(manifest, {}))
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.match(pattern, line) and "\n" not in line, (pattern, line)


@pytest.fixture(scope="module")
def definitions() -> dict[str, Config]:
    return definitions_in(DEFINITIONS)


@needs_definitions
@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        ((), {"entrypiont": "x"}, "spec: Additional properties .*'entrypiont'"),
        (("rayClusterSpec", "workerGroupSpecs", 0), {"replicas": "one"}, "spec.*workerGroupSpecs.0.replicas: 'one'"),
        (("rayClusterSpec",), {"headGroupSpec": None}, "spec.rayClusterSpec.headGroupSpec: None"),
    ],
)
def test_what_the_definitions_refuse_is_a_line(
    definitions: dict[str, Config], place: tuple[Any, ...], change: Config, says: str
) -> None:
    manifest = read("examples/cluster/rayjob.yaml")
    part = manifest["spec"]
    for step in place:
        part = part[step]
    part.update(change)
    (line,) = faults_of_manifest(manifest, definitions)
    assert re.match(says, line)


def test_shipped_files_have_no_faults() -> None:
    assert {"aws", "gcp", "raycluster", "rayjob", "cluster"} <= {path.stem for path in SHIPPED}
    assert check(CheckJob(tuple(SHIPPED))) == []


@needs_definitions
def test_shipped_manifests_keep_to_the_definitions(definitions: dict[str, Config]) -> None:
    manifests = [document for path in SHIPPED for document in documents_in(path) if "apiVersion" in document]
    assert [fault for manifest in manifests for fault in faults_of_manifest(manifest, definitions)] == []


def test_manifests_of_other_kinds_are_let_through(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\n---\n" + (ROOT / "examples/cluster/raycluster.yaml").read_text())
    assert check(CheckJob((file,))) == []


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "no YAML"), ("", "holds no"), ("- 1", "holds no"), ("\xff", "no YAML")]
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=rf"^{file}: {says}[^\n]*$"):
        check(CheckJob((file,)))


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no definition of RayCluster"):
        definitions_in(tmp_path)


def test_the_command_says_lines_and_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    def pnst(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pnst", "cluster", "check", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    shipped = str(ROOT / "cluster.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text((ROOT / "cluster.yaml").read_text().replace("unset OMP_NUM_THREADS;", ""))
    assert pnst(shipped) == (0, "nothing wrong in 1 file\n", "")
    code, out, err = pnst(shipped, str(bad))
    assert (code, err, len(out.splitlines())) == (1, "", 2)
    assert all(line.startswith(f"{bad}: ") for line in out.splitlines())
    assert pnst(str(tmp_path / "none.yaml"))[::2] == (
        1,
        f"pnst: {tmp_path}/none.yaml: No such file or directory; check the name\n",
    )
