"""What strangers send, and what comes of it: an answer with a reason, and nothing on the disk."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parallel_nst.errors import BadInput
from parallel_nst.web import guards
from parallel_nst.web.decoders import Decoders
from parallel_nst.web.settings import ServeSettings
from tests.served import animation, bomb, ended, picture_bytes, sent, served, stored_files

TOKEN = "a-token-of-enough-characters"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
NO_PICTURES = {
    "svg": SVG,
    "html": b"<html><script>alert(1)</script></html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    "empty": b"",
    "text": b"http://169.254.169.254/latest/meta-data/",
    "cut short": picture_bytes()[:200],
    "bomb": bomb(),
    "wide": bomb(1, 60_000_000),
    "python": b"\x80\x04\x95\x0b\x00\x00\x00cos\nsystem\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), max_megabytes=2) as (service, caller):
        yield service, caller


@pytest.fixture
def service(server):
    return server[0]


@pytest.fixture
def caller(server):
    return server[1]


@pytest.fixture
def unchanged(service):
    """Nothing may be left on the disk by a request that is refused."""
    before = stored_files(service), len(service.store.all())
    yield
    assert (stored_files(service), len(service.store.all())) == before


def reason(answer):
    """Why a request was refused: one line."""
    told = answer.json()["error"]
    assert told and "\n" not in told and "Traceback" not in told and "/" + "tmp" not in told
    return told


@pytest.mark.parametrize("kind", NO_PICTURES)
@pytest.mark.parametrize("name", ["a.png", "photo.jpg"])
def test_what_is_no_picture_is_refused_whatever_it_is_called(caller, unchanged, kind, name):
    content = {"content": (name, NO_PICTURES[kind], "image/png")}
    for path, form in (("/v1/jobs", {"painting": "swirls"}), ("/v1/stylize", {"model": "transformer-net"})):
        answer = caller.post(path, files=content, data=form)
        assert answer.status_code == 422
        assert reason(answer).startswith("content: ")


def test_a_style_that_is_no_picture_takes_the_content_with_it(caller, unchanged):
    answer = sent(caller, files={"style": ("s.png", SVG)})
    assert answer.status_code == 422 and reason(answer).startswith("style: ")


def test_pixels_are_counted_from_the_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    decoders = Decoders(50_000_000, count=1)
    try:
        began = time.process_time()
        with pytest.raises(BadInput, match="400"):
            decoders.picture(path)
        assert time.process_time() - began < 5
    finally:
        decoders.close()


def test_a_body_is_refused_by_its_stated_length(caller, unchanged):
    answer = caller.post("/v1/jobs", content=b"x", headers={"content-length": str(10**9)})
    assert answer.status_code == 413 and "2 MB" in reason(answer)


def test_a_body_is_cut_off_while_it_streams_in(caller, unchanged):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="content"; filename="a.png"\r\n\r\n'
        for _ in range(1000):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = caller.post("/v1/jobs", content=endless(), headers=headers)
    assert answer.status_code == 413 and "2 MB" in reason(answer)


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\n\r\n", b"\x00" * 100, b"--x--\r\n"])
def test_a_broken_form_is_refused(caller, unchanged, body):
    answer = caller.post("/v1/jobs", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (400, 422) and reason(answer)


def test_of_an_animation_the_first_frame_is_taken(caller, service):
    job = sent(caller, animation(), painting="swirls", recipe='{"steps": 1}').json()
    with Image.open(service.store.files(job["id"]).content) as image:
        assert image.format == "PNG" and getattr(image, "n_frames", 1) == 1
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    ended(caller, job["id"])


def test_what_is_stored_is_never_what_was_sent(caller, service):
    """A polyglot: a picture with a page and an archive behind it, and a comment within."""
    info = Image.Exif()
    info[0x010E] = "SECRET in the description"
    sneaky = (
        picture_bytes(form="JPEG", exif=info, comment=b"SECRET comment") + b"SECRET<script>alert(1)</script>PK\x03\x04"
    )
    job = sent(caller, sneaky, painting="swirls", recipe='{"steps": 1}').json()
    ended(caller, job["id"])
    folder = service.store.files(job["id"]).folder
    assert {path.name for path in folder.iterdir()} == {"content.png", "style.png", "preview.jpg", "result.png"}
    assert not any(b"SECRET" in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["../../../escaped.png", "/etc/passwd", "..\\..\\escaped.png", "a\x00b.png", ".", "x" * 5000]
)
def test_a_file_name_is_no_path(caller, service, name):
    answer = sent(caller, name=name, painting="swirls", recipe='{"steps": 1}')
    if answer.status_code == 202:
        ended(caller, answer.json()["id"])
        assert "/" not in answer.json()["name"] and "\\" not in answer.json()["name"].replace("\\x00", "")
        download = caller.get(f"/v1/jobs/{answer.json()['id']}/image", params={"download": True})
        assert ".." not in download.headers["content-disposition"]
    assert not list(service.store.folder.parent.rglob("*escaped*"))


@pytest.mark.parametrize(
    "model",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "http://127.0.0.1/a.pth",
        "transformer-net.safetensors",
        "..",
        "",
        "a\x00b",
        "by hand",
        "candy",
    ],
)
def test_a_model_is_a_name_and_never_a_path(caller, unchanged, model):
    answer = caller.post("/v1/stylize", files={"content": picture_bytes()}, data={"model": model})
    assert answer.status_code == 422 and reason(answer)


@pytest.mark.parametrize("painting", ["../swirls", "swirls.jpg", "/etc/passwd", "http://127.0.0.1/", "nothing"])
def test_a_painting_is_a_name_of_the_gallery(caller, unchanged, painting):
    assert sent(caller, painting=painting).status_code == 422
    assert caller.get(f"/v1/paintings/{painting}").status_code == 404


def test_pictures_are_never_fetched(caller, unchanged):
    answer = caller.post("/v1/jobs", data={"content": "http://127.0.0.1:1/a.png", "painting": "swirls"})
    assert answer.status_code == 422
    answer = caller.post("/v1/jobs", json={"content": "http://127.0.0.1:1/a.png", "painting": "swirls"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "form",
    [
        {"size": -1},
        {"size": 10**9},
        {"size": 5000},
        {"size": "large"},
        {"size": "NaN"},
        {"strength": -0.1},
        {"strength": 2},
        {"strength": "nan"},
        {"strength": "inf"},
        {"recipe": "{"},
        {"recipe": "[]"},
        {"recipe": '{"steps": 0}'},
        {"recipe": '{"steps": 1e9}'},
        {"recipe": '{"steps": 100000}'},
        {"recipe": '{"steps": "many"}'},
        {"recipe": '{"steps": true}'},
        {"recipe": '{"size": 99999}'},
        {"recipe": '{"backbone": "../x"}'},
        {"recipe": '{"device": "cuda"}'},
        {"recipe": '{"tiling": {"tiles": "9999"}}'},
        {"recipe": '{"layers": {"style": {"x": 1}}}'},
        {"recipe": '{"learning_rate": NaN}'},
        {"recipe": "[" * 5000},
        {"recipe": " " * 20_000},
        {"recipe": '{"optimizer": "\\u0000"}'},
        {"model": "transformer-net"},
    ],
)
def test_a_bad_setting_is_refused(caller, unchanged, form):
    answer = sent(caller, **{"painting": "swirls"} | form)
    assert answer.status_code == 422, answer.text
    assert reason(answer)


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ({}, {}),
        ({"painting": "swirls"}, {"style": picture_bytes()}),
        ({"model": "microast"}, {}),
        ({"model": "transformer-net"}, {"style": picture_bytes()}),
        ({"model": "transformer-net", "recipe": '{"steps": 2}'}, {}),
    ],
)
def test_what_does_not_go_together_is_refused(caller, unchanged, form, files):
    answer = sent(caller, files=files, **form)
    assert answer.status_code == 422 and reason(answer)


@pytest.mark.parametrize("job", ["x", "%2e%2e%2e", "..%2f..%2fetc%2fpasswd", "1", "' OR 1=1 --", "x" * 5000])
def test_an_id_that_there_is_not_is_not_found(caller, job):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/image"), ("GET", "/events")):
        assert caller.request(method, f"/v1/jobs/{job}{path}").status_code in (404, 405)


def test_a_role_is_one_of_those_there_are(caller):
    job = sent(caller, painting="swirls", recipe='{"steps": 1}').json()["id"]
    for role in ("snapshot", "folder", "../jobs.sqlite", "__class__"):
        assert caller.get(f"/v1/jobs/{job}/image", params={"role": role}).status_code == 422
    ended(caller, job)


def test_a_full_queue_is_told_with_a_time(tmp_path):
    with served(tmp_path, pool=never_opened, queue=2) as (service, caller):
        answers = [sent(caller, painting="swirls") for _ in range(6)]
        assert {answer.status_code for answer in answers} == {202, 429}
        full = next(answer for answer in answers if answer.status_code == 429)
        assert int(full.headers["retry-after"]) > 0 and reason(full)
        assert service.store.count("queued") == 2


def never_opened():
    """A pool that takes its time, so that jobs stay where they are."""
    time.sleep(3)
    raise BadInput("no workers in this test")


def test_decoding_ends_in_time_and_goes_on_after(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes())
    decoders = Decoders(10**6, count=1, seconds=0.0)
    try:
        with pytest.raises(BadInput, match="within 0 s"):
            decoders.picture(path)
        decoders._seconds = 60.0
        assert decoders.picture(path).size == (40, 48)
    finally:
        decoders.close()


def test_decoding_has_a_memory_of_its_own(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(path)
    small = tmp_path / "small.png"
    small.write_bytes(picture_bytes())
    decoders = Decoders(10**9, count=1, memory=200 << 20, seconds=60)
    try:
        with pytest.raises(BadInput):
            decoders.picture(path)
        assert decoders.picture(small).size == (40, 48)
    finally:
        decoders.close()


def test_a_decoded_picture_is_the_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path, to = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(file.getvalue())
    decoders = Decoders(10**6, count=1, seconds=60)
    try:
        picture = decoders.picture(path)
        assert np.array_equal(np.rint(picture.pixels * 255), pixels[..., :3])
        assert np.array_equal(np.rint(picture.alpha * 255), pixels[..., 3])
        assert decoders.convert(path, to) == ((9, 7), None)
        assert np.array_equal(np.asarray(Image.open(to)), pixels)
        assert max(decoders.picture(path, 3).size) == 3
    finally:
        decoders.close()


# --- who may ask


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8002", "", "10.0.0.1"]
)
def test_a_foreign_host_is_refused(caller, host):
    for path in ("/", "/v1/jobs", "/healthz", "/metrics"):
        assert caller.get(path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:8002"])
def test_its_own_names_are_served(caller, host):
    assert caller.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_elsewhere_drives_nothing(caller, unchanged, headers):
    assert caller.post("/v1/jobs", files={"content": picture_bytes()}, headers=headers).status_code == 403
    assert caller.get("/v1/jobs", headers=headers).status_code == 403


def test_its_own_page_and_links_to_it_work(caller):
    assert caller.get(
        "/v1/jobs", headers={"origin": "http://127.0.0.1:8002", "sec-fetch-site": "same-origin"}
    ).is_success
    assert caller.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).is_success


def test_no_other_origin_is_let_in(caller):
    answer = caller.options(
        "/v1/jobs", headers={"origin": "http://127.0.0.1:8002", "access-control-request-method": "POST"}
    )
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/v1/jobs", "/v1/jobs/none", "/nothing", "/healthz", "/openapi.json"]
)
def test_every_answer_is_strict(caller, path):
    headers = caller.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_others_are_let_in_with_a_token_only(host, tmp_path):
    for token in ("", "short"):
        with pytest.raises(BadInput, match="--token"):
            ServeSettings(host=host, token=token)
    assert ServeSettings(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1"])
def test_this_machine_needs_no_token(host):
    assert ServeSettings(host=host).host == host


def test_a_token_is_wanted_everywhere_but_at_the_door(tmp_path):
    with served(tmp_path, token=TOKEN) as (_, caller):
        for path in ("/v1/jobs", "/v1/models", "/v1/events", "/metrics", "/openapi.json", "/v1/paintings/swirls"):
            answer = caller.get(path)
            assert answer.status_code == 401 and "www-authenticate" in answer.headers
        for path in ("/", "/healthz", "/readyz", "/page/page.js"):
            assert caller.get(path).status_code == 200
        assert caller.get("/v1/jobs", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert caller.get("/v1/jobs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert caller.post("/v1/session", json={"token": "wrong"}).status_code == 401
        answer = caller.post("/v1/session", json={"token": TOKEN})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
        assert caller.get("/v1/jobs").status_code == 200


def test_where_it_listens_everywhere_addresses_are_its_names_but_names_are_not(tmp_path):
    guard = guards.Guards(None, ServeSettings(host="0.0.0.0", token=TOKEN, allow_hosts="art.example, b.example"))
    assert all(
        guard.is_own(host) for host in ("10.1.2.3:8002", "[fe80::1]", "localhost", "art.example", "B.example:80")
    )
    assert not any(guard.is_own(host) for host in ("evil.example", "", "10.1.2.3.evil.example"))


def test_the_page_asks_nobody_else():
    """No address of another place in any file of the page but the name of SVG's own vocabulary."""
    for path in (Path(guards.__file__).parent / "page").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and 'src="//' not in text, path.name
        assert "<script>" not in text and "onclick=" not in text and "style=" not in text, path.name


def test_errors_are_json_with_one_line(caller):
    for answer in (caller.get("/nothing"), caller.put("/v1/jobs"), caller.patch("/v1/jobs/x", content=b"{")):
        assert 400 <= answer.status_code < 500
        assert set(json.loads(answer.text)) == {"error"}
