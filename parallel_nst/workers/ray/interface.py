"""The network that ranks talk over."""

from __future__ import annotations

import os

import psutil  # type: ignore[import-untyped]
import ray


def choose_interface() -> None:
    """Let gloo use the network that Ray uses. By itself it takes the one of the machine's name, which on many machines
    is 127.0.0.1, where no other machine can reach it."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
