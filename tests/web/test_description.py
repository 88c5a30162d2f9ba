"""The API asked for what its own description allows, and for what it does not: an answer with a reason, always."""

from contextlib import suppress

import pytest

from parallel_nst.errors import BadInput
from tests.served import ended, picture_bytes, sent, served

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402

pytestmark = pytest.mark.slow

ENDLESS = ("/v1/events",)
EXAMPLES = 100  # of each address, of each kind
HOST = "pnst.test"
PICTURES = ("content", "style", "picture")
WORDS = {"model": "transformer-net", "painting": "swirls", "recipe": '{"steps": 1}', "size": 12, "name": "swirls"}


def no_workers():
    raise BadInput("no workers in this test")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    options = {"allow_hosts": HOST, "max_size": 64, "max_megabytes": 1, "queue": 1000}
    with served(tmp_path_factory.mktemp("server"), pool=no_workers, **options) as (_, caller):
        yield caller


def operations(caller):
    """All that the description names, by what is done where."""
    schema = schemathesis.openapi.from_dict(caller.get("/openapi.json").json())
    found = [result.ok() for result in schema.get_all_operations()]
    found.sort(key=lambda one: one.method == "delete")  # last, for it takes away what the others ask for
    return {f"{one.method.upper()} {one.path}": one for one in found if one.path not in ENDLESS}


def sensible(value, name, choose):
    """Now and then what gets further than chance would: a picture, a name that there is."""
    if name in PICTURES and choose.draw(st.booleans()):
        return picture_bytes(9, 7)
    return WORDS[name] if name in WORDS and choose.draw(st.booleans()) else value


def part(name, value):
    """A part of a form as its sender's browser would make it."""
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return ("a.png" if name in PICTURES else None), data


def requested(case, job, choose):
    """A case with some of its values made sensible."""
    if isinstance(case.body, dict):
        case.body = {name: sensible(value, name, choose) for name, value in case.body.items()}
    for name in case.path_parameters or {}:
        if choose.draw(st.booleans()):
            case.path_parameters[name] = job if name == "job" else WORDS.get(name, "")
    asked = case.as_transport_kwargs(base_url=f"http://{HOST}")
    asked.pop("cookies", None)  # of which the API describes none
    if asked.get("files"):
        asked["files"] = [(name, part(name, value)) for name, (_, value, *_) in asked["files"]]
    if isinstance(asked.get("data"), (bytes, str)):
        asked["content"] = asked.pop("data")
    return asked


def answers(caller, operation, mode, job):
    """What comes of many requests to one address."""
    got = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), choose=st.data())
    def ask(case, choose):
        asked = requested(case, job, choose)
        got.append((caller.request(**asked), asked))

    with suppress(Unsatisfiable):  # what takes nothing cannot be asked wrongly
        ask()
    return got


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_nothing_that_is_asked_breaks_it(server, mode):
    job = sent(server, model="transformer-net").json()["id"]
    ended(server, job)
    got = {name: answers(server, one, mode, job) for name, one in operations(server).items()}
    statuses = {answer.status_code for told in got.values() for answer, _ in told}
    broken = [(name, answer.text, asked) for name in got for answer, asked in got[name] if answer.is_server_error]
    assert broken == []
    assert {200, 422} <= statuses
