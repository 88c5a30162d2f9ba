"""cluster.yaml, checked by Ray's own launcher functions: there is no dry run of `ray up`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` would complete it; raises where `ray up` would refuse it."""
    complete = prepare_config(config)
    validate_config(complete)
    return complete


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def test_ray_accepts_it_and_starts_every_worker(config: dict[str, Any]) -> None:
    complete = checked(config)
    (node_type,) = complete["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(config["provider"]["worker_ips"]) > 0


def test_a_misspelt_key_is_refused(config: dict[str, Any]) -> None:
    config["worker_start_ray_comands"] = config.pop("worker_start_ray_commands")
    with pytest.raises(jsonschema.ValidationError, match="worker_start_ray_comands"):
        checked(config)


def test_a_missing_head_is_refused(config: dict[str, Any]) -> None:
    del config["provider"]["head_ip"]
    with pytest.raises(click.ClickException, match="head_ip"):
        checked(config)


def test_ray_is_the_version_of_the_constraints() -> None:
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pinned) == 1
    assert re.findall(r"\bray(?:\[\w+\])?==([\w.]+)", TEXT) == pinned


@pytest.mark.parametrize("role", ["head", "worker"])
def test_start_command(config: dict[str, Any], role: str) -> None:
    (start,) = [command for command in config[f"{role}_start_ray_commands"] if "ray start" in command]
    needed = ["unset OMP_NUM_THREADS;", " RAY_AUTH_MODE=token ", " RAY_worker_niceness=0 "]
    if role == "head":
        needed += [" RAY_enable_autoscaler_v2=0 ", " --head ", " --autoscaling-config=~/ray_bootstrap_config.yaml "]
        needed += [" --dashboard-host=127.0.0.1 "]
    assert [part for part in needed if part not in start] == []


def test_what_is_copied_to_the_hosts_is_here(config: dict[str, Any]) -> None:
    assert "~/.ray/auth_token" in config["file_mounts"]
    ours = [here for here in config["file_mounts"].values() if not here.startswith("~")]
    assert [here for here in ours if not (ROOT / here).exists()] == []
