"""Bodies that come too slowly."""

import asyncio

import pytest
from fastapi import HTTPException

from parallel_nst.web import guards


def test_a_slow_body_is_given_up(monkeypatch):
    monkeypatch.setattr(guards, "FIRST_BYTES", 0.01)

    async def never():
        await asyncio.sleep(3600)

    with pytest.raises(HTTPException) as error:
        asyncio.run(guards.Body(never, 100)())
    assert error.value.status_code == 408


def test_a_body_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(guards, "WHOLE_BODY", 0.05)

    async def trickle():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read():
        body = guards.Body(trickle, 10**6)
        for _ in range(100):
            await body()

    with pytest.raises(HTTPException) as error:
        asyncio.run(read())
    assert error.value.status_code == 408


def test_after_the_body_nothing_is_hurried(monkeypatch):
    """What is waited for then is that the caller goes, which may take as long as it likes."""
    monkeypatch.setattr(guards, "FIRST_BYTES", 0.01)
    messages = [{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}]

    async def receive():
        if len(messages) == 1:
            await asyncio.sleep(0.1)
        return messages.pop(0)

    async def read():
        body = guards.Body(receive, 100)
        return [(await body())["type"] for _ in range(2)]

    assert asyncio.run(read()) == ["http.request", "http.disconnect"]
