import http.client
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")

COMMAND = (sys.executable, "-m", "schemathesis.cli", "run", "--seed", "1", "--max-examples", "10", "--no-color")
# A body that fits the document may still be no picture, and that is a 422.
CHECKS = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


def test_schemathesis_finds_no_answer_that_openapi_does_not_promise(start_server, tmp_path):
    """Requests that nobody wrote; its own pytest plugin does not work with pytest 9.2."""
    with start_server("--max-body", "20000", "--time-limit", "2") as (_, port):
        url = f"http://127.0.0.1:{port}"
        hooks = os.environ | {"SCHEMATHESIS_HOOKS": str(Path(__file__).parent / "picture_bodies.py")}
        run = subprocess.run(
            [*COMMAND, *CHECKS, f"{url}/openapi.json"], capture_output=True, text=True, env=hooks, cwd=tmp_path
        )
        assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        figures = connection.getresponse().read().decode()
        connection.close()
    assert 'path="/v1/detect",status="500"' not in figures
    assert 'path="/v1/detect",status="200"' in figures  # not all of them were refused
