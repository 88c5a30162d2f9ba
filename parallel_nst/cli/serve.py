"""`pnst serve`: the page and the HTTP API."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from parallel_nst.cli.options import made_from
from parallel_nst.errors import BadInput
from parallel_nst.web.settings import ServeSettings

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@made_from(without=("memory", "workers_per_gpu"))
def serve_command(job: ServeSettings) -> None:
    """Open a page and an HTTP API on this machine: pictures go in, paintings come out."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(f"{missing[0]} is not installed; install it with: pip install 'parallel-nst[web]'")
    from parallel_nst.web.server import serve

    serve(job, lambda line: print(f"pnst: {line}", file=sys.stderr, flush=True))
