"""The generators as an application for a cluster: what it is asked to be, and what it answers, without Ray."""

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image
from starlette.testclient import TestClient

from parallel_nst.errors import BadInput, Busy, WorkerLost
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.web.cluster import front_of, settings_of, stylizer_of
from tests.served import picture_bytes
from tests.small_generators import narrow

TOKEN = {"PNST_TOKEN": "a-token-of-enough-characters"}
KNOWN = {"authorization": f"Bearer {TOKEN['PNST_TOKEN']}"}
CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"


class Here:
    """Workers of this process. fails: what is raised in place of a picture."""

    def __init__(self, settings, fails=None):
        self.stylizer, self.fails, self.waiting = stylizer_of(settings), fails, 0

    async def ask(self, item):
        if self.fails:
            raise self.fails
        return await self.stylizer.paint(item)

    def there(self):
        return not self.fails


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    save_generator(narrow("transformer-net").float(), folder / "small.safetensors")
    return folder


def called(models, fails=None, **arguments):
    settings = settings_of({"models": str(models), **arguments}, TOKEN)
    workers = Here(settings, fails)
    return workers, TestClient(front_of(settings, workers), base_url="http://10.0.0.7:8000", headers=KNOWN)


def stylized(caller, **form):
    return caller.post("/v1/stylize", files={"content": picture_bytes()}, data={"model": "small", **form})


def test_it_paints_with_the_workers_models(models):
    workers, calling = called(models)
    with calling as caller:
        assert "small" in [model["name"] for model in caller.get("/v1/models").json()["models"]]
        answer = stylized(caller, size=24, format="png")
        assert answer.status_code == 200 and Image.open(io.BytesIO(answer.content)).size == (24, 20)
        assert caller.get("/readyz").status_code == 200
        assert 'route="/v1/stylize",status="200"' in caller.get("/metrics").text
    workers.stylizer.close()


@pytest.mark.parametrize(("error", "status"), [(Busy("too many", 2), 429), (WorkerLost("lost"), 503)])
def test_workers_that_are_busy_or_lost_are_worth_another_try(models, error, status):
    workers, calling = called(models, error)
    with calling as caller:
        answer = stylized(caller)
        assert answer.status_code == status and answer.json() == {"error": str(error)}
        assert int(answer.headers["retry-after"]) > 0
        assert caller.get("/readyz").status_code == 503
    workers.stylizer.close()


def test_it_keeps_no_jobs_and_wants_the_token(models):
    workers, calling = called(models)
    with calling as caller:
        assert caller.get("/v1/jobs").status_code == 404 and caller.get("/").status_code == 404
        assert caller.get("/v1/models", headers={"authorization": ""}).status_code == 401
        assert caller.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    workers.stylizer.close()


def test_what_it_has_opened_is_closed_with_it(models, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workers, calling = called(models)
    with calling as caller:
        stylized(caller)
        assert list(tmp_path.glob("pnst-incoming-*"))
    assert not list(tmp_path.glob("pnst-*"))
    workers.stylizer.close()


def test_a_model_that_cannot_be_read_is_told_in_the_log(models, caplog):
    (models / "broken.pth").write_bytes(b"not weights")
    workers, calling = called(models)
    with calling as caller:
        assert "broken" not in [model["name"] for model in caller.get("/v1/models").json()["models"]]
    assert "broken.pth" in caplog.text
    workers.stylizer.close()


def test_settings_come_as_texts_or_as_values(models):
    as_texts = settings_of({"least": "2", "cores": "0.5", "models": str(models)}, TOKEN)
    assert as_texts == settings_of({"least": 2, "cores": 0.5, "models": models}, TOKEN)
    assert as_texts.token == TOKEN["PNST_TOKEN"] and as_texts.models == models


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ({}, {}, "PNST_TOKEN"),
        ({}, {"PNST_TOKEN": "short"}, "PNST_TOKEN"),
        ({"token": "a-token-of-enough-characters"}, TOKEN, "logs"),
        ({"port": 8000}, TOKEN, "known keys"),
        ({"least": 5, "most": 2}, TOKEN, "least is 5"),
        ({"most": "many"}, TOKEN, "most is 'many'"),
        ({"cores": 0}, TOKEN, "cores is 0"),
        ({"gpus": -1}, TOKEN, "gpus is -1"),
        ({"models": "/nothing/there"}, TOKEN, "no folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, environment, told):
    with pytest.raises(BadInput, match=told) as error:
        settings_of(arguments, environment)
    assert "\n" not in str(error.value)


def test_the_manifest_asks_for_what_there_is():
    manifest = yaml.safe_load((CLUSTER / "rayservice.yaml").read_text(encoding="utf-8"))
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    settings = settings_of(application["args"], TOKEN)
    pod = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert settings.cores <= float(pod["resources"]["limits"]["cpu"])
    assert application["import_path"] == f"{settings_of.__module__}:app"


def test_the_manifest_is_one_of_kuberays():
    jsonschema = pytest.importorskip("jsonschema")
    definition = CLUSTER.parents[2] / "shared" / "data" / "kuberay" / "rayservices.yaml"
    if not definition.exists():
        pytest.skip("KubeRay's resource definitions are not here")
    versions = yaml.load(definition.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = yaml.safe_load((CLUSTER / "rayservice.yaml").read_text(encoding="utf-8"))
    assert list(jsonschema.Draft202012Validator(closed(schema)).iter_errors(manifest)) == []
    manifest["spec"]["serveConfig"] = ""
    assert list(jsonschema.Draft202012Validator(closed(schema)).iter_errors(manifest))


def closed(schema):
    """With nothing allowed that is not named."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    extra = {} if "properties" not in schema else {"additionalProperties": False}
    return extra | {key: closed(part) for key, part in schema.items()}


def test_the_image_holds_what_the_manifests_start():
    root, text = CLUSTER.parents[1], (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    assert all((root / name).exists() for names in copied for name in names)
    assert "cluster,serve,training,web" in text
