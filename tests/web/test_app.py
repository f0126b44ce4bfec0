import base64
import io
import json
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from pocketdet import cli
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import Predictor

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from pocketdet.web.app import create_app
from pocketdet.web.settings import ServeSettings

PNG = {"content-type": "image/png"}
KEY = "a secret with ü"


@pytest.fixture(scope="module")
def predictor(tiny_model):
    return Predictor(OnnxBackend(tiny_model, threads=1))


@pytest.fixture(scope="module")
def client(predictor):
    with TestClient(create_app({"tiny": predictor}), raise_server_exceptions=False) as client:
        yield client


def png_header(width, height):
    """The beginning of a PNG of that size: header and 20 bytes of pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(20))))
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def picture_file(kind, size=(64, 64)):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def test_all_three_bodies_give_what_predict_json_prints(client, red_png, tiny_model, tmp_path, capsys):
    path = tmp_path / "red.png"
    path.write_bytes(red_png)
    assert cli.main(["predict", str(path), "--model", str(tiny_model), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    encoded = base64.b64encode(red_png).decode()
    bodies = (
        ("red.png", {"files": {"image": ("red.png", red_png, "image/png")}}),
        ("", {"content": red_png, "headers": PNG}),
        ("", {"json": {"image": encoded}}),
    )
    for name, body in bodies:
        answer = client.post("/v1/detect", **body)
        expected["pictures"][0]["source"] = name
        assert (answer.status_code, answer.json()) == (200, expected)
    assert expected["pictures"][0]["objects"] == [
        {"class": "red", "class_id": 0, "score": 1.0, "box": [16.0, 24.0, 24.0, 32.0]}
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_promised_format_is_read(client, kind):
    headers = {"content-type": f"image/{kind.lower()}"}
    answer = client.post("/v1/detect", content=picture_file(kind, (40, 60)), headers=headers)
    assert answer.status_code == 200
    assert [answer.json()["pictures"][0][side] for side in ("height", "width")] == [40, 60]


def test_thresholds_and_classes_choose_what_is_returned(client):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[24:32, 16:24, 0] = 255
    pixels[24:32, 40:48, 2] = 255
    pixels[48:56, 40:48, 0] = 133  # objectness sigmoid(20 * 133 / 255 - 10) = 0.61
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")

    def found(**parameters):
        answer = client.post("/v1/detect", content=file.getvalue(), headers=PNG, params=parameters)
        return [(entry["class"], entry["box"][:2]) for entry in answer.json()["pictures"][0]["objects"]]

    red, blue, dark = ("red", [16, 24]), ("blue", [40, 24]), ("red", [40, 48])
    assert sorted(found()) == sorted([red, blue, dark])
    assert sorted(found(score_threshold=0.7)) == sorted([red, blue])
    assert found(score_threshold=0.7, classes="blue") == [blue]
    assert sorted(found(classes=["red", "blue"])) == sorted([red, blue, dark])


BAD_REQUESTS = {
    "a text file": (b"This is text.\n" * 100, "image/jpeg", 422, "no picture"),
    "nothing": (b"", "image/jpeg", 422, "empty"),
    "a cut JPEG": (picture_file("JPEG")[:900], "image/jpeg", 422, "cut or damaged"),
    "a cut PNG": (png_header(50, 50), "image/png", 422, "cut or damaged"),
    "40,000 pixels wide": (png_header(40_000, 10), "image/png", 413, "40000 x 10"),
    "a decompression bomb": (png_header(16_000, 16_000), "image/png", 413, "too large"),
    "more pixels than the server takes": (png_header(8_000, 8_000), "image/png", 413, "8000 x 8000"),
    "a format that starts a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "application/octet-stream", 422, "no picture"),
    "text by its own account": (b"hello", "text/plain", 415, "text/plain"),
    "no content type": (picture_file("PNG"), "", 415, "expected multipart/form-data"),
    "a form without a boundary": (b"x", "multipart/form-data", 400, "boundary"),
    "a form without the file": (
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/passwd\r\n--b--\r\n',
        "multipart/form-data; boundary=b",
        400,
        "no file named 'image'",
    ),
    "no JSON": (b"{", "application/json", 400, "no JSON"),
    "JSON of another shape": (b"[1]", "application/json", 400, "in base64"),
    "a number": (b'{"image": 5}', "application/json", 400, "in base64"),
    "deep JSON": (b"[" * 100_000, "application/json", 400, "no JSON"),
    "JSON that is not UTF-8": (b'{"image": "\xff"}', "application/json", 400, "no JSON"),
    "a URL": (b'{"image": "http://127.0.0.1/a.png"}', "application/json", 400, "no base64"),
    "a path": (b'{"image": "/etc/passwd"}', "application/json", 400, "no base64"),
    "a path that is base64": (b'{"image": "/etc/os+release="}', "application/json", 422, "no picture"),
    "letters beyond ASCII": ('{"image": "ü"}'.encode(), "application/json", 400, "no base64"),
    "a key too many": (b'{"image": "AAAA", "url": "http://127.0.0.1"}', "application/json", 400, "no other key"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_picture_or_body_gets_a_clear_4xx(client, name):
    body, content_type, status, words = BAD_REQUESTS[name]
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post("/v1/detect", content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": "lions"}, "'lions'; this server has tiny"),
        ({"classes": "green"}, "'green'; tiny knows red, blue"),
        ({"score_threshold": "30"}, "score_threshold is '30': Input should be less than or equal to 1"),
        ({"iou_threshold": "nan"}, "iou_threshold is 'nan'"),
    ],
)
def test_a_bad_parameter_is_named(client, red_png, parameters, words):
    answer = client.post("/v1/detect", content=red_png, headers=PNG, params=parameters)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(predictor):
    app = create_app({"tiny": predictor}, ServeSettings(max_body=1000))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/detect", content=bytes(1000), headers=PNG).status_code == 422
        for content in (bytes(1001), iter([bytes(600), bytes(600)])):
            answer = client.post("/v1/detect", content=content, headers=PNG)
            assert (answer.status_code, answer.json()) == (413, {"detail": "the body is larger than 1000 bytes"})


def test_an_answer_that_takes_too_long_is_503(predictor, red_png, monkeypatch):
    answered, detect = threading.Event(), Predictor.detect

    def detect_late(*arguments):
        assert answered.wait(30)
        return detect(*arguments)

    app = create_app({"tiny": predictor}, ServeSettings(time_limit=0.5))
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(Predictor, "detect", detect_late)
        answer = client.post("/v1/detect", content=red_png, headers=PNG)
        answered.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "no answer within 0.5 s" in answer.json()["detail"]


def test_the_key_guards_the_api_and_the_figures_but_not_the_health(predictor, red_png):
    with TestClient(create_app({"tiny": predictor}, api_key=KEY), raise_server_exceptions=False) as client:
        right = {"authorization": f"Bearer {KEY}".encode()}
        for path in ("/v1/models", "/metrics"):
            assert client.get(path, headers=right).status_code == 200
            for wrong in ({}, {"authorization": "Bearer a"}, {"authorization": f"Basic {KEY}".encode()}):
                answer = client.get(path, headers=wrong)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/detect", content=red_png, headers=PNG).status_code == 401
        assert client.post("/v1/detect", content=red_png, headers=PNG | right).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/openapi.json").json()["components"]["securitySchemes"]


def test_models_tells_what_a_client_has_to_know(client):
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["classes"], model["input_height"]) == ("tiny", ["red", "blue"], 64)
    assert model["metrics"] == {"AP": 0.5}


def test_the_server_is_ready_only_after_its_start(predictor):
    client = TestClient(create_app({"tiny": predictor}))
    assert client.get("/healthz").json() == {"status": "ok"}
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "not ready"})
    with client:
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (200, {"status": "ready"})


def test_figures_count_requests_batches_and_objects(predictor, red_png):
    with TestClient(create_app({"tiny": predictor})) as client:
        for content in (red_png, red_png, b"text"):
            client.post("/v1/detect", content=content, headers=PNG)
        client.get("/no/such/path")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'pocketdet_requests_total{path="/v1/detect",status="200"} 2.0',
        'pocketdet_requests_total{path="/v1/detect",status="422"} 1.0',
        'pocketdet_requests_total{path="other",status="404"} 1.0',
        'pocketdet_batch_size_count{model="tiny"} 2.0',
        'pocketdet_objects_total{model="tiny",name="red"} 2.0',
        "pocketdet_requests_in_progress 0.0",
    ):
        assert line in answer.text.splitlines()


def test_no_answer_may_be_read_or_framed_by_other_sites(client):
    for path in ("/healthz", "/no/such/path"):
        headers = client.get(path).headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_examples_of_openapi_are_true(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/detect"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/detect", json=body).status_code == 200
