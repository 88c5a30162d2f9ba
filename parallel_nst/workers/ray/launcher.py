"""What `ray up` makes of a cluster's configuration, without starting anything."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import ray
from ray.autoscaler._private.util import prepare_config, validate_config

from parallel_nst.errors import BadInput
from parallel_nst.workers.ray.cluster import first_line

RAY_VERSION: str = ray.__version__
logging.getLogger(prepare_config.__module__).setLevel(logging.ERROR)  # it tells each number that it fills in


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` would complete it from its defaults; BadInput, in one line, where it would refuse
    it. Nobody is asked but Ray's own functions: no host, no cloud."""
    if not isinstance(config.get("provider"), Mapping):
        raise BadInput("provider is missing; give one with a type, such as local, aws or gcp")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it talks about what it fills in
            complete: dict[str, Any] = prepare_config(dict(config))
            validate_config(complete)
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        raise BadInput(f"{place}: {error.message}") from None
    except click.ClickException as error:
        raise BadInput(error.message) from None
    except Exception as error:  # of many kinds: it takes for granted that a file is nearly right
        raise BadInput(f"Ray cannot read it ({type(error).__name__}: {first_line(error)})") from None
    return complete
