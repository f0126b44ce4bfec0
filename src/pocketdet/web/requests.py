"""From the body of a request to the bytes of one picture; nothing else is ever read, no path and no URL."""

import base64
import binascii
import json
from typing import NamedTuple

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from pocketdet.core.images import image_size
from pocketdet.errors import ImageError
from pocketdet.web.settings import ServeSettings

FIELD = "image"  # of a form, and of a JSON object
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
FORM_TYPE, JSON_TYPE = "multipart/form-data", "application/json"

# How the files of the accepted formats begin. Pillow knows more formats, some of which run other programs.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


class Upload(NamedTuple):
    """A picture as it came."""

    content: bytes
    name: str  # that the client gave it; empty where it gave none


async def read_upload(request: Request) -> Upload:
    """The picture of a request: a form's file, raw bytes, or base64 in JSON.

    Raises:
        HTTPException: 400 for a malformed body, 415 for a content type that is none of these.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM_TYPE:
        return await _from_form(request)
    if content_type == JSON_TYPE:
        return Upload(_from_json(await request.body()), "")
    if content_type in PICTURE_TYPES:
        return Upload(await request.body(), "")
    raise HTTPException(
        415,
        f"the content type is {content_type!r}; expected {FORM_TYPE} with a file '{FIELD}', {JSON_TYPE} "
        f"with base64 in '{FIELD}', or the picture itself as {', '.join(PICTURE_TYPES)}",
    )


async def _from_form(request: Request) -> Upload:
    # Starlette answers 400 to what is no form.
    async with request.form(max_files=1, max_fields=8) as form:
        part = form.get(FIELD)
        if not isinstance(part, UploadFile):
            raise HTTPException(400, f"the form has no file named '{FIELD}'; it has {sorted(form) or 'nothing'}")
        return Upload(await part.read(), part.filename or "")


def _from_json(body: bytes) -> bytes:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    text = document.get(FIELD) if isinstance(document, dict) else None
    if not isinstance(text, str) or len(document) > 1:
        raise HTTPException(400, f'expected {{"{FIELD}": "the picture in base64"}} and no other key')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"'{FIELD}' is no base64: {error}") from error


def check_picture(content: bytes, settings: ServeSettings) -> None:
    """Refuse what is no picture or too large a one, by its first bytes and its header.

    Raises:
        HTTPException: 413 for too many pixels, 422 for what cannot be read as a picture.
    """
    if not content.startswith(_SIGNATURES) and not (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        what = "empty" if not content else "no picture"
        raise HTTPException(422, f"the given bytes are {what}; expected a JPEG, PNG, WebP, GIF or BMP file")
    try:
        height, width = image_size(content)
    except ImageError as error:
        raise HTTPException(413 if "too large" in str(error) else 422, str(error)) from error
    if max(height, width) > settings.max_side or height * width > settings.max_pixels:
        raise HTTPException(
            413,
            f"the picture is {width} x {height}; this server takes up to {settings.max_pixels} pixels and "
            f"{settings.max_side} on a side: make it smaller",
        )
