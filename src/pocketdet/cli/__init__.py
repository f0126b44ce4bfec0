"""The command line, a module a verb; options, defaults and help texts come from their signatures and docstrings."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cyclopts import App

from pocketdet.cli import app as application

VERBS = ("demo", "predict", "track", "train", "check", "evaluate", "benchmark", "export", "import", "explain", "serve")

__all__ = ["VERBS", "load_app", "main"]


def load_app(verbs: Sequence[str] = VERBS) -> App:
    """The application with some of its verbs; their modules add themselves to it."""
    for verb in verbs:
        import_module(f"{__name__}.{'import_' if verb == 'import' else verb}")
    return application.app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb, and import only that one. See ``app.main``."""
    words = sys.argv[1:] if arguments is None else arguments
    load_app(words[:1] if words and words[0] in VERBS else VERBS)
    return application.main(arguments)
