"""What is wrong with the files that a cluster is started from, found before one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from parallel_nst.errors import BadInput
from parallel_nst.jobs.cluster.configuration import faults_of_configuration
from parallel_nst.jobs.cluster.manifests import definitions_in, faults_of_manifest
from parallel_nst.jobs.requests.cluster import CheckJob


def check(job: CheckJob) -> list[str]:
    """A line for each thing that would go wrong: which file, where in it, what, and what to do. BadInput or OSError for
    a file that cannot be read at all."""
    definitions = definitions_in(job.definitions) if job.definitions else {}
    return [
        f"{path}: {fault}"
        for path in job.files
        for document in documents_in(path)
        for fault in (
            faults_of_manifest(document, definitions) if "apiVersion" in document else faults_of_configuration(document)
        )
    ]


def documents_in(path: Path) -> Iterator[Mapping[str, Any]]:
    """The mappings that a file of YAML holds; BadInput for anything else."""
    try:
        found = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: no YAML ({' '.join(str(error).split())})") from None
    if not found or not all(isinstance(document, dict) for document in found):
        raise BadInput(f"{path}: holds no configuration; give a file for ray up, or a manifest of KubeRay")
    yield from found
