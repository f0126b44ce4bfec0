import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pocketdet


@pytest.fixture(scope="session")
def red_png():
    """The picture of ``red_cell`` as a file."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[24:32, 16:24, 0] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def start_server(tiny_model):
    """A context manager: ``pocketdet serve`` on a free port; gives the process and the port."""
    pytest.importorskip("uvicorn")

    @contextlib.contextmanager
    def start(*options, models=(tiny_model,), **environment):
        source = str(Path(pocketdet.__file__).parents[1])
        command = [sys.executable, "-m", "pocketdet", "serve", "--model", *models, "--port", "0", "--json", *options]
        environment = os.environ | {"PYTHONPATH": source} | environment
        words = [str(part) for part in command]
        # A test run in the background ignores Ctrl-C, and hands that on.
        hear = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, preexec_fn=hear) as process:
            try:
                yield process, int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)

    return start
