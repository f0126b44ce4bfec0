"""What callers may catch.

PocketdetError
├── DataError              a data set cannot be used
│   └── AnnotationError    one label is wrong: file, line or key
├── ImageError             a picture is missing, cut or no picture
├── VideoError             a video or stream cannot be read or written
├── ModelFileError         a model or checkpoint is missing, changed, cut or of a foreign kind
├── SettingsError          a setting is out of range or contradicts another
├── ExportError            an exported file failed its gate
└── MissingExtraError      an optional package has to be installed
"""


class PocketdetError(Exception):
    """The root: whatever bad input can cause. The command line prints it and exits with 2."""


class DataError(PocketdetError):
    """A data set cannot be used as it is."""


class AnnotationError(DataError):
    """A label is wrong.

    Args:
        message: Names the file and the line or key.
        kind: What is wrong, in the words of ``pocketdet check``.
    """

    def __init__(self, message: str, kind: str = "label") -> None:
        super().__init__(message)
        self.kind = kind


class ImageError(PocketdetError):
    """A picture cannot be read."""


class VideoError(PocketdetError):
    """A video, camera or stream cannot be read, or a video not be written."""


class ModelFileError(PocketdetError):
    """A model or checkpoint file cannot be used."""


class SettingsError(PocketdetError):
    """A setting is out of range or contradicts another one."""


class ExportError(PocketdetError):
    """An exported file does not compute what its checkpoint computes."""


class MissingExtraError(PocketdetError):
    """An optional package is missing; the message names the extra to install."""
