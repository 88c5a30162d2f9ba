"""What is wrong with manifests of KubeRay: what its resource definitions refuse, and what runs badly."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

from parallel_nst.errors import BadInput

KINDS = ("RayCluster", "RayJob", "RayService")
PLACES = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}  # of what describes the cluster
VERSION = "ray.io/v1"
SHARED_MEMORY = "/dev/shm"

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a definition has tens of thousands of lines

Schema = dict[str, Any]
Definitions = Mapping[str, Schema]  # by kind


def definitions_in(folder: Path) -> dict[str, Schema]:
    """The schema of each kind that a folder of resource definitions holds; BadInput when it holds none."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.load_all(path.read_text(encoding="utf-8"), Loader):
            if isinstance(definition, dict) and definition.get("kind") == "CustomResourceDefinition":
                found[definition["spec"]["names"]["kind"]] = schema_of(definition)
    if not set(KINDS) & set(found):
        raise BadInput(f"{folder}: holds no definition of {', '.join(KINDS)}; give KubeRay's config/crd/bases")
    return found


def schema_of(definition: Mapping[str, Any]) -> Schema:
    """That of the version which manifests are written for. Kubernetes would drop what it does not know; here that is an
    error, for it is a slip."""
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == VERSION.partition("/")[2])
    schema: Schema = closed(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def closed(schema: Any) -> Any:
    """The same with nothing allowed that is not named, and Kubernetes' own word for `a number or a text` resolved."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return {key: closed(part) for key, part in schema.items()}


def faults_of_manifest(manifest: Mapping[str, Any], definitions: Definitions) -> Iterator[str]:
    """A line for each; nothing of manifests of other kinds."""
    kind = manifest.get("kind")
    if kind not in KINDS:
        return
    if manifest["apiVersion"] != VERSION:
        yield f"apiVersion is {manifest['apiVersion']!r}; give {VERSION}"
    refused = list(faults_of_schema(manifest, definitions[kind])) if kind in definitions else []
    yield from refused
    if not refused:
        yield from faults_of_cluster(cluster_in(manifest))


def faults_of_schema(manifest: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    """What the definition refuses."""
    for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path)) or 'the manifest'}: {error.message}"


def cluster_in(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the cluster."""
    spec: Mapping[str, Any] = manifest.get("spec") or {}
    key = PLACES.get(manifest["kind"])
    return spec if key is None else spec.get(key) or {}


def faults_of_cluster(cluster: Mapping[str, Any]) -> Iterator[str]:
    """What a cluster of pods runs badly with."""
    from parallel_nst.workers.ray.launcher import RAY_VERSION  # Ray is loaded only for this

    if cluster.get("rayVersion") != RAY_VERSION:
        yield f"rayVersion is {cluster.get('rayVersion')!r}, this machine has {RAY_VERSION}; they must be the same"
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        yield "whoever reaches the head's ports can run programs there; give authOptions: {mode: token}"
    groups = {"head": cluster.get("headGroupSpec") or {}}
    groups |= {f"worker {one.get('groupName')}": one for one in cluster.get("workerGroupSpecs") or []}
    images = {name: image_of(group) for name, group in groups.items()}
    if len(set(images.values())) > 1:
        told = ", ".join(f"{name} {image}" for name, image in images.items())
        yield f"images differ ({told}); versions of Ray, Python and pnst must be the same in all pods"
    for name, group in groups.items():
        yield from faults_of_group(name, group)


def faults_of_group(name: str, group: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the pods of one group."""
    image, container = image_of(group), container_of(group)
    if not image or ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
        yield f"{name}: image {image} can be another one on each machine; give it a tag other than latest"
    if "memory" not in ((container.get("resources") or {}).get("limits") or {}):
        yield f"{name}: no limit of memory, by which Ray knows how much there is; give resources.limits.memory"
    if name == "head":
        return
    if SHARED_MEMORY not in [mount.get("mountPath") for mount in container.get("volumeMounts") or []]:
        yield (
            f"{name}: {SHARED_MEMORY} has 64 MiB in a pod, so that Ray's object store lies on the disk; mount an "
            "emptyDir with medium: Memory there"
        )
    if not (group.get("minReplicas", group.get("replicas", 0)) or 0):
        yield f"{name}: minReplicas is 0, and a run waits for no pod; give as many as it is to use"


def container_of(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ray's container, the first of a pod."""
    spec = (group.get("template") or {}).get("spec") or {}
    return next(iter(spec.get("containers") or []), {})


def image_of(group: Mapping[str, Any]) -> str | None:
    return container_of(group).get("image")
