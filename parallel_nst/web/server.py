"""A server from its settings: opened, answering, closed."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from parallel_nst.errors import BadInput
from parallel_nst.web.api import create_app
from parallel_nst.web.service import opened
from parallel_nst.web.settings import ServeSettings

MOST_CONNECTIONS = 200
GRACE = 5  # seconds that open answers get at the end


def serve(settings: ServeSettings, notify: Callable[[str], None]) -> None:
    """Answer until the process is told to end (SIGINT, SIGTERM). notify: takes each line that the user should be told.
    BadInput for an address that cannot be had, or a folder that another server uses."""
    with bound(settings) as listener, opened(settings, notify) as service:
        port = listener.getsockname()[1]
        notify(f"http://{shown_host(settings)}:{port}/ (jobs in {settings.folder}; stop with Ctrl-C)")
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=GRACE,
            lifespan="off",
            loop="asyncio",  # the same everywhere, whatever else is installed
            http="h11",
            ws="none",
        )
        Server(config, service.board.close).run(sockets=[listener])


class Server(uvicorn.Server):
    """Lets those go who follow events before it waits for all answers to end."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(config)
        self._leave = leave

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leave()
        await super().shutdown(sockets)


def bound(settings: ServeSettings) -> socket.socket:
    """A socket at the address, taken before anything else is begun."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise BadInput(f"{settings.host}:{settings.port} cannot be had ({reason}); give another --port") from None
    return listener


def shown_host(settings: ServeSettings) -> str:
    """As it stands in an address."""
    host = "127.0.0.1" if settings.anywhere else settings.host
    return f"[{host}]" if ":" in host else host
