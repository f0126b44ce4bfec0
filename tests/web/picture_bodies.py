"""Hooks of schemathesis: half of the bodies are pictures, so that not all requests end at the first check."""

import base64
import io

import hypothesis.strategies as st
import numpy as np
import schemathesis
from PIL import Image


def picture_file(kind: str, seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (seed + 1, 9, 3), np.uint8)).save(file, kind)
    return file.getvalue()


PICTURES = st.builds(picture_file, st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), st.integers(0, 70))
BODIES = PICTURES | st.binary(max_size=100)

for name in ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream"):
    schemathesis.openapi.media_type(name, BODIES)
schemathesis.openapi.format("byte", BODIES.map(lambda content: base64.b64encode(content).decode()))
schemathesis.openapi.format("binary", BODIES)
