"""What is asked about a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallel_nst.recipe.knobs import REQUIRED, knob


@dataclass(frozen=True)
class CheckJob:
    """Files to look into before anything is started from them. definitions: None takes manifests as they are."""

    files: tuple[Path, ...] = knob(
        REQUIRED,
        "configurations for ray up, or manifests of KubeRay",
        "Pictures",
        metavar="FILE...",
        argument=True,
        read=Path,
        each=True,
    )
    definitions: Path | None = knob(
        None, "folder with KubeRay's resource definitions (its config/crd/bases), to hold manifests against", "Workers"
    )


@dataclass(frozen=True)
class StatusJob:
    """The cluster to ask."""

    address: str = knob(
        "auto",
        "Ray cluster, auto or host:port; RAY_ADDRESS in the environment does the same",
        "Workers",
        shown="the one that this machine belongs to",
        variable="RAY_ADDRESS",
    )
