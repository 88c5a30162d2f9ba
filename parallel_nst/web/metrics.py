"""Counts and times for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parallel_nst.web.board import Board
from parallel_nst.web.instant import Painter
from parallel_nst.web.store import STATES, JobStore

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """A registry of its own, so that several servers of one process do not meet."""

    def __init__(self, *gauges: Collector) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route", "status")
        self.requests = Counter("pnst_requests", "Requests answered.", names, registry=self.registry)
        self.seconds = Histogram(
            "pnst_request_seconds",
            "Seconds to the end of an answer.",
            ("route",),
            registry=self.registry,
            buckets=SECONDS,
        )
        for gauge in gauges:
            self.registry.register(gauge)

    def text(self) -> bytes:
        """In Prometheus' own form."""
        return generate_latest(self.registry)


class Gauges(Collector):
    """What is read when somebody asks."""

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(())


class PainterGauges(Gauges):
    """Of pictures at once."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("pnst_instant_waiting", "Pictures that wait for a generator.", self._painter.waiting)


class JobGauges(Gauges):
    """Of the queue and those who watch it."""

    def __init__(self, store: JobStore, board: Board) -> None:
        self._store, self._board = store, board

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("pnst_jobs", "Jobs in each state.", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], self._store.count(state))
        yield jobs
        yield GaugeMetricFamily("pnst_event_listeners", "Callers that follow events.", self._board.listeners)


class Measured:
    """Counts and times all requests that reach the application, by route: what callers ask for makes no names."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(method_of(scope), route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)


def method_of(scope: Scope) -> str:
    """Of those there are; anything else is other."""
    method = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT") else "other"
