"""Detect for others, over HTTP."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pocketdet.cli.app import AsJson, app, examples, print_json
from pocketdet.errors import SettingsError
from pocketdet.web.settings import ServeSettings

if TYPE_CHECKING:
    from pocketdet.runtime.predictor import Predictor

API_KEY = "POCKETDET_API_KEY"  # in the environment: a command line is seen by all users of a machine
LOOPBACK = ("127.0.0.1", "::1", "localhost")
DEFAULT_SETTINGS = ServeSettings()


@app.command(
    help_epilogue=examples(
        "pocketdet serve",
        "pocketdet serve --model animals animals-small --port 9000",
        "curl -F image=@photo.jpg 'http://127.0.0.1:8000/v1/detect?score_threshold=0.5'",
        "POCKETDET_API_KEY=... pocketdet serve --host 0.0.0.0",
    )
)
def serve(
    *,
    model: tuple[str, ...] = ("animals",),
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    write_page: Path | None = None,
    settings: Annotated[ServeSettings, Parameter(name="*")] = DEFAULT_SETTINGS,
    as_json: AsJson = False,
) -> None:
    """Serve detectors until SIGTERM or Ctrl-C: a page that detects in the browser, and an HTTP API.

    The API is `POST /v1/detect` and what /openapi.json describes. Listens on this machine only, unless --host says
    otherwise. Where the environment has POCKETDET_API_KEY, clients have to send it as `Authorization: Bearer KEY`, and
    there is no page.

    Args:
        model: Names of bundled detectors, .onnx files, .safetensors checkpoints or folders of training runs.
        host: Address to listen on; 0.0.0.0 for all networks of this machine.
        port: 0 takes a free one.
        threads: Threads of the network; by default as many as the machine has cores.
        write_page: Write the page with these detectors into this folder, for any web host, and end.
    """
    from pocketdet.loading import load
    from pocketdet.web.page import write_page as write
    from pocketdet.web.server import serve as run_server

    api_key = os.environ.get(API_KEY)
    if api_key == "":
        raise SettingsError(f"{API_KEY} is empty; give it a key or unset it")
    if host not in LOOPBACK and api_key is None:
        print(f"warning: whoever reaches {host} may use this server; {API_KEY} sets a key", file=sys.stderr)
    predictors: dict[str, Predictor] = {}
    page_models: dict[str, Path] = {}
    for one in model:
        name = Path(one).stem
        if name in predictors:
            raise SettingsError(f"two models are called {name!r}; rename a file")
        predictors[name] = load(one, threads)
        # The page decodes logits itself.
        if (exported := _find_exported(one)) and predictors[name].metadata.outputs == "logits":
            page_models[name] = exported
    if write_page is not None:
        write(page_models, write_page)
        if as_json:
            print_json({"folder": str(write_page)})
        else:
            print(f"the page is in {write_page}")
        return

    def announce(url: str) -> None:
        if as_json:
            print_json({"url": url, "models": list(predictors)})
        else:
            print(
                f"{', '.join(predictors)}: {url} (API: {url}/v1/detect, described in {url}/openapi.json; Ctrl-C ends)"
            )
        sys.stdout.flush()

    run_server(predictors, settings, (host, port), api_key, None if api_key else page_models, announce)


def _find_exported(model: str) -> Path | None:
    """The file of a model, where it is one that browsers can run."""
    from pocketdet.loading import ASSETS, bundled_models

    bundled = bundled_models()
    path = ASSETS / bundled[model]["file"] if model in bundled else Path(model)
    return path if path.suffix.lower() == ".onnx" else None
