"""The command line, a module a verb; options, defaults and help texts come from their signatures and docstrings."""

from pocketdet.cli import benchmark, check, demo, evaluate, explain, export, import_, predict, serve, track, train
from pocketdet.cli.app import app, main

VERBS = (demo, predict, track, train, check, evaluate, benchmark, export, import_, explain, serve)

__all__ = ["VERBS", "app", "main"]
