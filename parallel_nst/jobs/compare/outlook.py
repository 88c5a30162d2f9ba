"""How many runs a comparison will make, and about how long they take."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parallel_nst.jobs.compare.records import SERIAL, Setting
from parallel_nst.jobs.compare.scene import Scene
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.planning.forecast import forecast, measured_speed
from parallel_nst.painting.planning.memory import machine_memory
from parallel_nst.painting.planning.profile import Profile, profile
from parallel_nst.painting.planning.scales import plan_scales
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.workers.opening import usable_cores

RAY_SECONDS = 4.0  # to start and to stop a Ray of one's own, seen on two cores


def outlook(scene: Scene, settings: Sequence[Setting], rounds: int) -> str:
    """In one line. rounds: the one to warm up among them. The speed is measured, which takes a second or two."""
    backbone = build_backbone(scene.recipe.backbone, scene.weights, scene.recipe.pooling)
    backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reader = FeatureReader(backbone, resolve(scene.recipe, backbone).layers, getattr(torch, scene.dtype))
    costs = profile(backbone, reader.layers.style, reader.layers.content, reader.dtype)
    crews = sorted({(setting.threads, setting.workers) for setting in settings})
    alone = scene.device == "cuda"  # each on a GPU of its own
    speeds = {crew: measured_speed(reader, crew[0], scene.device, 1 if alone else crew[1]) for crew in crews}
    seconds = sum(
        seconds_of(scene, setting, reader, costs, speeds[setting.threads, setting.workers]) for setting in settings
    )
    runs = rounds * len(settings)
    return (
        f"{runs} runs: {len(settings)} settings, once to warm up and {rounds - 1} "
        f"time{'s' * (rounds != 2)} timed; about {in_words(rounds * seconds)} in all"
    )


def seconds_of(scene: Scene, setting: Setting, reader: FeatureReader, costs: Profile, speed: float) -> float:
    """Of one run, as far as it can be known before."""
    resolved = resolve(setting.recipe, reader.backbone)
    together = usable_cores() / setting.threads if scene.device == "cpu" and setting.workers > 1 else 1.0
    budget = Budget(setting.workers, machine_memory(), costs, together)
    plans = plan_scales(scene.content.size, scene.style.size, resolved, budget)
    painting = forecast(plans, resolved, budget, speed).seconds
    return painting + (RAY_SECONDS if setting.mode != SERIAL and setting.workers > 1 else 0)


def in_words(seconds: float) -> str:
    """'40 s', '12 min', '3 h': nobody knows better."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
