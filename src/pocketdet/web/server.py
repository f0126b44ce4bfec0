"""Runs the API on a port."""

import contextlib
import importlib.util
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from pocketdet.errors import MissingExtraError, SettingsError
from pocketdet.runtime.predictor import Predictor
from pocketdet.web.settings import ServeSettings

PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
KEEP_ALIVE = 30  # seconds that an idle connection stays open


def serve(
    predictors: Mapping[str, Predictor],
    settings: ServeSettings,
    address: tuple[str, int],
    api_key: str | None,
    page_models: Mapping[str, Path] | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are being worked on are answered before the end.

    Args:
        predictors: By the name that clients give; the first one is the default.
        settings: Bounds.
        address: Host and port; port 0 takes a free one.
        api_key: Where given, /v1 and /metrics want it.
        page_models: Exported ``.onnx`` files that the page offers, by name; without this there is no page.
        announce: Told the URL once the server answers.

    Raises:
        MissingExtraError: The extra is not installed.
        SettingsError: The address cannot be used.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'the server needs {", ".join(missing)}, not installed here; run: pip install "pocketdet[serve]"'
        )
    import uvicorn

    from pocketdet.web.app import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                announce(url)

    listener = _listen(*address)
    url = _url(listener)
    config = uvicorn.Config(
        create_app(predictors, settings, api_key, page_models),
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        # A request takes at most the time limit for its body and once more for its answer.
        timeout_graceful_shutdown=round(2 * settings.time_limit) + 1,
    )
    with listener:
        Server(config).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise SettingsError(f"port is {port}; it must be 0 to 65535")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            on_failure.pop_all()
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error}; choose another --host or --port") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
