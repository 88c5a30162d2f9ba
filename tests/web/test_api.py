"""The API, from a request to the picture."""

import io
import json
import threading
import time
import zipfile
from concurrent.futures import CancelledError

import numpy as np
import pytest
from PIL import Image

from parallel_nst.errors import BadInput, Busy
from parallel_nst.files.images import Picture
from parallel_nst.recipe import Recipe
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.web.instant import InstantRequest, InstantStylizer
from parallel_nst.web.requests import PaintingRequest, weight_of
from tests.served import ended, picture_bytes, sent, served

ONE_STEP = '{"steps": 1}'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server")) as (service, caller):
        yield service, caller


@pytest.fixture
def caller(server):
    return server[1]


def image_of(answer):
    return Image.open(io.BytesIO(answer.content))


def events_of(answer):
    """What a stream of events told, one after the other."""
    lines = answer.text.split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_what_there_is_to_paint_with(caller):
    told = caller.get("/v1/models").json()
    models = {model["name"]: model["takes_style"] for model in told["models"]}
    assert models["transformer-net"] is False and models["microast"] is True and models["swirls"] is False
    assert told["paintings"] and told["steps"] == Recipe().steps
    for name in told["paintings"]:
        assert image_of(caller.get(f"/v1/paintings/{name}")).size[0] > 0


def test_a_painting_from_request_to_picture(caller):
    content = picture_bytes(60, 40)
    answer = sent(caller, content, name="cat.png", painting="swirls", size=32, recipe=ONE_STEP)
    assert answer.status_code == 202
    job = answer.json()
    assert job["kind"] == "painting" and job["name"] == "cat.png" and job["state"] in ("queued", "running")
    done = ended(caller, job["id"])
    assert done["state"] == "done", done
    assert (done["width"], done["height"]) == (32, 21)
    result = caller.get(f"/v1/jobs/{job['id']}/image")
    assert image_of(result).size == (32, 21) and result.headers["content-type"] == "image/png"
    assert image_of(caller.get(f"/v1/jobs/{job['id']}/image?role=content")).size == (60, 40)
    assert image_of(caller.get(f"/v1/jobs/{job['id']}/image?role=preview")).format == "JPEG"
    download = caller.get(f"/v1/jobs/{job['id']}/image?download=true")
    assert download.headers["content-disposition"] == f'attachment; filename="cat-{job["id"][:6]}.png"'


def test_a_painting_carries_settings_that_can_be_asked_for_again(caller):
    job = sent(caller, painting="embers", size=16, strength=0.25, recipe=ONE_STEP).json()
    ended(caller, job["id"])
    result = caller.get(f"/v1/jobs/{job['id']}/image").content
    told = caller.post("/v1/settings", files={"picture": ("r.png", result)}).json()["settings"]
    assert told["recipe"] == job["settings"]["recipe"]
    again = sent(caller, painting="embers", recipe=json.dumps(told["recipe"])).json()
    assert again["settings"]["recipe"] == job["settings"]["recipe"]
    ended(caller, again["id"])


def test_a_picture_without_settings_is_told(caller):
    answer = caller.post("/v1/settings", files={"picture": picture_bytes()})
    assert answer.status_code == 422 and "no settings" in answer.json()["error"]


def test_a_model_as_a_job(caller):
    job = sent(caller, model="transformer-net", size=40).json()
    done = ended(caller, job["id"])
    assert done["kind"] == "model" and done["state"] == "done" and max(done["width"], done["height"]) == 40
    result = caller.get(f"/v1/jobs/{job['id']}/image").content
    told = caller.post("/v1/settings", files={"picture": ("r.png", result)}).json()["settings"]
    assert told["model"] == "transformer-net" and told["size"] == 40


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_picture_at_once(caller, form):
    files = {"content": picture_bytes(48, 36)}
    answer = caller.post("/v1/stylize", files=files, data={"model": "transformer-net", "format": form})
    assert answer.status_code == 200 and answer.headers["content-type"] == f"image/{form}"
    assert image_of(answer).size == (48, 36) and image_of(answer).format == form.upper()


def test_what_comes_at_once_is_what_a_job_makes(caller):
    content = picture_bytes(48, 36)
    form = {"model": "transformer-net", "size": 32}
    at_once = caller.post("/v1/stylize", files={"content": content}, data=form | {"format": "png"})
    job = sent(caller, content, **form).json()
    ended(caller, job["id"])
    result = caller.get(f"/v1/jobs/{job['id']}/image")
    one, other = (np.asarray(image_of(answer), np.int16) for answer in (at_once, result))
    assert np.abs(one - other).max() <= 1


def test_a_model_that_takes_a_style(caller):
    files = {"content": picture_bytes(), "style": picture_bytes(seed=1)}
    answer = caller.post("/v1/stylize", files=files, data={"model": "microast", "strength": 0.5})
    assert answer.status_code == 200
    other = caller.post("/v1/stylize", files=files, data={"model": "microast", "strength": 0.0})
    assert other.content != answer.content


def test_a_job_can_be_followed_to_its_end(caller):
    job = sent(caller, painting="swirls", size=32, recipe='{"steps": 6}').json()
    told = [event["jobs"][0] for event in events_of(caller.get(f"/v1/jobs/{job['id']}/events"))]
    assert told[-1]["state"] == "done" and all(one["id"] == job["id"] for one in told)
    shares = [one["progress"]["share"] for one in told if one["progress"]]
    assert shares == sorted(shares)


def test_of_a_job_that_has_ended_there_is_one_event(caller):
    job = sent(caller, painting="swirls", recipe=ONE_STEP).json()
    ended(caller, job["id"])
    assert len(events_of(caller.get(f"/v1/jobs/{job['id']}/events"))) == 1


def test_an_ended_job_is_removed_with_its_pictures(server):
    service, caller = server
    job = sent(caller, painting="swirls", recipe=ONE_STEP).json()["id"]
    ended(caller, job)
    assert caller.delete(f"/v1/jobs/{job}").status_code == 200
    assert caller.get(f"/v1/jobs/{job}").status_code == 404
    assert not service.store.files(job).folder.exists()


def test_a_cancelled_job_frees_the_workers_for_the_next(server):
    _, caller = server
    long = sent(caller, painting="swirls", size=64, recipe='{"steps": 1000}').json()["id"]
    short = sent(caller, painting="swirls", recipe=ONE_STEP).json()["id"]
    until = time.monotonic() + 60
    while not caller.get(f"/v1/jobs/{long}").json()["progress"] and time.monotonic() < until:
        time.sleep(0.02)
    assert caller.delete(f"/v1/jobs/{long}").json()["state"] == "cancelled"
    assert ended(caller, short)["state"] == "done"
    assert caller.get(f"/v1/jobs/{long}").json()["state"] == "cancelled"
    assert caller.get(f"/v1/jobs/{long}/image").status_code == 404


def test_the_queue_can_be_reordered_while_it_is_worked(server):
    _, caller = server
    running = sent(caller, painting="swirls", size=64, recipe='{"steps": 1000}').json()["id"]
    waiting = [sent(caller, name=f"{name}.png", painting="swirls", recipe=ONE_STEP).json()["id"] for name in "abc"]
    moved = caller.patch(f"/v1/jobs/{waiting[2]}", json={"place": 1})
    assert moved.json()["place"] == 1
    listed = [job["name"] for job in caller.get("/v1/jobs").json()["jobs"][:4]]
    assert listed[1:] == ["c.png", "a.png", "b.png"]
    assert caller.patch(f"/v1/jobs/{running}", json={"place": 1}).status_code == 409
    for job in [running, *waiting]:
        caller.delete(f"/v1/jobs/{job}")
    for place in (0, -1, "first"):
        assert caller.patch(f"/v1/jobs/{waiting[0]}", json={"place": place}).status_code == 422


def test_a_job_whose_workers_cannot_be_had_has_failed_with_the_reason(tmp_path):
    def none():
        raise BadInput("no workers in this test")

    with served(tmp_path, pool=none) as (_, caller):
        job = ended(caller, sent(caller, painting="swirls").json()["id"])
        assert job["state"] == "failed" and job["message"] == "no workers in this test"
        assert caller.get("/readyz").status_code == 200


def test_all_results_come_in_one_file(caller):
    job = sent(caller, name="cat.png", painting="swirls", recipe=ONE_STEP).json()["id"]
    waiting = sent(caller, name="../dog.png", model="transformer-net").json()["id"]
    ended(caller, job), ended(caller, waiting)
    answer = caller.get("/v1/results.zip")
    assert answer.headers["content-type"] == "application/zip" and ".zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert {f"cat-{job[:6]}.png", f"dog-{waiting[:6]}.png"} <= set(archive.namelist())
        assert archive.read(f"cat-{job[:6]}.png") == caller.get(f"/v1/jobs/{job}/image").content


def test_health_and_metrics(caller):
    assert caller.get("/healthz").json() == {"status": "ok"}
    assert caller.get("/readyz").json() == {"status": "ready"}
    caller.get("/v1/jobs/nothing-like-this")
    text = caller.get("/metrics").text
    assert 'pnst_requests_total{method="GET",route="/healthz",status="200"}' in text
    assert 'pnst_jobs{state="queued"} 0.0' in text
    assert 'route="/v1/jobs/{job}",status="404"' in text and "nothing-like-this" not in text


def test_the_description_names_every_address(caller):
    told = caller.get("/openapi.json").json()["paths"]
    wanted = {
        "/v1/models": "get",
        "/v1/stylize": "post",
        "/v1/jobs": "post",
        "/v1/jobs/{job}": "delete",
        "/v1/jobs/{job}/events": "get",
        "/v1/jobs/{job}/image": "get",
        "/healthz": "get",
        "/readyz": "get",
        "/metrics": "get",
    }
    assert all(method in told[path] for path, method in wanted.items())


def test_nothing_of_a_server_stays(tmp_path):
    before = threading.active_count()
    with served(tmp_path) as (service, caller):
        job = sent(caller, painting="swirls", recipe=ONE_STEP).json()["id"]
        ended(caller, job)
        processes = [process._process for process in service.decoders._all]
    assert threading.active_count() <= before
    assert all(process is None or process.poll() is not None for process in processes)
    assert not list(service.store.incoming.iterdir())


def test_a_running_job_goes_on_where_the_last_server_left_it(tmp_path):
    """To the very picture that it would have become."""
    form = {"painting": "swirls", "size": 48, "recipe": '{"steps": 120, "scales": 1}'}
    content = picture_bytes()
    with served(tmp_path) as (service, caller):
        whole = sent(caller, content, **form).json()["id"]
        ended(caller, whole)
        wanted = np.asarray(image_of(caller.get(f"/v1/jobs/{whole}/image")))
    folder = tmp_path / "two"
    folder.mkdir()
    with served(folder) as (service, caller):
        job = sent(caller, content, **form).json()["id"]
        until = time.monotonic() + 60
        while not service.store.files(job).snapshot.exists() and time.monotonic() < until:
            time.sleep(0.001)
    assert service.store.files(job).snapshot.exists()
    with served(folder) as (service, caller):
        done = ended(caller, job)
        assert done["state"] == "done"
        made = np.asarray(image_of(caller.get(f"/v1/jobs/{job}/image")))
    assert np.abs(made.astype(int) - wanted).max() <= 1


def test_one_server_a_folder(tmp_path):
    with served(tmp_path), pytest.raises(BadInput, match="another server"), served(tmp_path):
        pass


# --- the parts


def noise(width, height, seed=0):
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32))


@pytest.fixture
def instant(server):
    made = InstantStylizer(server[0].catalogue, 3)
    yield made
    made.close()


def test_a_picture_that_nobody_wants_any_more_is_not_painted(instant):
    futures = [instant.submit(InstantRequest("transformer-net", noise(200, 200))) for _ in range(2)]
    cancelled = futures[1].cancel()
    assert futures[0].result(60).size == (200, 200)
    if cancelled:
        with pytest.raises(CancelledError):
            futures[1].result()


def test_too_many_at_once_are_put_off(instant):
    with pytest.raises(Busy) as error:
        for _ in range(50):
            instant.submit(InstantRequest("transformer-net", noise(100, 100)))
    assert error.value.seconds >= 1


def test_pictures_together_are_as_they_are_alone(server):
    """Whatever size they have and whichever model they want."""
    catalogue = server[0].catalogue
    requests = [InstantRequest("transformer-net", noise(30 + 10 * (n % 2), 24, n)) for n in range(6)]
    instant = InstantStylizer(catalogue, 20)
    try:
        together = [future.result(60) for future in [instant.submit(request) for request in requests]]
        alone = [instant.submit(request).result(60) for request in requests]
    finally:
        instant.close()
    for one, other in zip(together, alone, strict=True):
        assert one.size == other.size and np.abs(one.pixels - other.pixels).max() < 1e-4


def test_a_model_that_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    (tmp_path / "notes.txt").write_text("no model")
    catalogue = Catalogue(tmp_path)
    assert "broken" not in catalogue.models and "notes" not in catalogue.models
    assert len(catalogue.left_out) == 1


def test_strength_half_way_is_the_default():
    assert weight_of(0.5) == Recipe().content_weight
    assert weight_of(0) > weight_of(0.5) > weight_of(1) > 0


def test_the_contents_own_size_is_bounded_too():
    with pytest.raises(BadInput, match="at most 4096"):
        PaintingRequest(0, 0.5, "swirls").settings((9000, 10), 4096)
    assert PaintingRequest(0, 0.5, "swirls").settings((900, 10), 4096)["recipe"]["size"] == 900
