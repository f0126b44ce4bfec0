"""Bodies of requests and answers, as OpenAPI describes them."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pocketdet.core.metadata import ModelMetadata
from pocketdet.web.requests import FIELD, FORM_TYPE, JSON_TYPE, PICTURE_TYPES

SCORE_HELP = "Only objects with a score above this."
IOU_HELP = "Boxes of one class that overlap more than this are one object."
CLASSES_HELP = "Only objects of these classes; the parameter may stand several times."

_MESSAGES = {
    400: ("The body is malformed.", "the body is no JSON: Expecting value: line 1 column 1 (char 0)"),
    401: ("The API key is missing or wrong.", "the API key is missing or wrong"),
    408: ("The body came too slowly.", "the body took longer than 10 s"),
    413: ("Too many bytes or pixels.", "the picture is 40000 x 40000; this server takes up to 50000000 pixels"),
    415: ("The content type is none of the accepted ones.", "the content type is 'text/plain'; expected ..."),
    422: ("No picture, a damaged one, or a parameter out of range.", "the given bytes are no picture"),
    503: ("Too much to do; try again after the seconds of Retry-After.", "64 requests are being worked on"),
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


class Found(BaseModel):
    """One object."""

    model_config = ConfigDict(populate_by_name=True)

    class_name: str = Field(alias="class", examples=["cat"])
    class_id: int = Field(ge=0, examples=[0])
    score: float = Field(ge=0, le=1, examples=[0.9312])
    box: list[float] = Field(
        min_length=4, max_length=4, description="Left, top, right, bottom.", examples=[[93.1, 3.0, 399.8, 295.4]]
    )


class Picture(BaseModel):
    """What was found in one picture."""

    source: str = Field(description="The file's name, where the client gave one.", examples=["chelsea.jpg"])
    height: int = Field(ge=1, examples=[300])
    width: int = Field(ge=1, examples=[451])
    objects: list[Found]


class Document(BaseModel):
    """What `pocketdet predict --json` prints."""

    pictures: list[Picture] = Field(description="One.", min_length=1, max_length=1)
    errors: list[dict[str, str]] = Field(description="None: an error has a status of its own.", max_length=0)


class Model(BaseModel):
    """A detector."""

    name: str = Field(examples=["animals"])
    backbone: str = Field(examples=["mobilenet_v2"])
    classes: list[str] = Field(examples=[["cat", "dog"]])
    input_height: int = Field(examples=[320])
    input_width: int = Field(examples=[320])
    metrics: dict[str, float] = Field(examples=[{"AP50": 0.719}])
    training_data: str
    licence: str = Field(examples=["MIT"])

    @classmethod
    def of(cls, name: str, metadata: ModelMetadata) -> "Model":
        """From what the model's file says about itself."""
        height, width = metadata.input_size
        return cls(
            name=name,
            backbone=metadata.backbone,
            classes=list(metadata.class_names),
            input_height=height,
            input_width=width,
            metrics=metadata.metrics,
            training_data=metadata.training_data,
            licence=metadata.licence,
        )


class Models(BaseModel):
    """All detectors of the server."""

    models: list[Model]


class Problem(BaseModel):
    """What went wrong, and the way out."""

    detail: str


def errors(guard: Sequence[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides 200."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in (*statuses, 401) if guard else statuses:
        description, example = _MESSAGES[status]
        content = {JSON_TYPE: {"example": {"detail": example}}}
        answers[status] = {"model": Problem, "description": description, "content": content}
        if status == 503:
            answers[status]["headers"] = _RETRY_AFTER
    return answers


def health(status: str) -> dict[str, Any]:
    """An answer of the health routes."""
    schema = {"type": "object", "properties": {"status": {"const": status}}, "required": ["status"]}
    return {"description": status, "content": {JSON_TYPE: {"schema": schema, "example": {"status": status}}}}


def metrics(guard: Sequence[Any]) -> dict[int | str, dict[str, Any]]:
    """Answers of the metrics route."""
    example = "pocketdet_requests_in_progress 0.0"
    content = {"text/plain": {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "Prometheus' text format.", "content": content}, **errors(guard)}


def _picture_body() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {FIELD: {"type": "string", "format": "binary"}},
        "required": [FIELD],
    }
    document = {
        "type": "object",
        "properties": {FIELD: {"type": "string", "format": "byte", "description": "The picture in base64."}},
        "required": [FIELD],
        "additionalProperties": False,
    }
    raw = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "description": "One picture: JPEG, PNG, WebP, GIF (its first frame) or BMP.",
        "content": {
            FORM_TYPE: {"schema": form},
            JSON_TYPE: {"schema": document, "example": {FIELD: "R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="}},
            **dict.fromkeys(PICTURE_TYPES, raw),
        },
    }


PICTURE_BODY = _picture_body()
