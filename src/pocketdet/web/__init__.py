"""The HTTP API and the page: `serve` runs them, `ServeSettings` bounds them."""

from pocketdet.web.server import serve
from pocketdet.web.settings import ServeSettings

__all__ = ["ServeSettings", "serve"]
