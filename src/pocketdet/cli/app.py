"""What the verbs share: the application, its exit codes, the --json flag, what is printed."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from pocketdet import __version__
from pocketdet.errors import PocketdetError

GOOD, BAD_INPUT, INTERRUPTED = 0, 2, 130

AsJson = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="Print one JSON document instead of text on standard output.",
    ),
]

app = App(
    name="pocketdet",
    version=__version__,
    help="""Find objects in pictures with small detectors, and train your own.

    Try `pocketdet demo`, then `pocketdet predict photo.jpg`. `pocketdet VERB --help` explains each verb.""",
    help_format="markdown",
    # One flag takes several values: --classes cat dog. An empty list is never useful.
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    suppress_keyboard_interrupt=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: Without the program's name; by default the command line's.

    Returns:
        Exit code: 0 good, 2 bad input or wrong usage, 130 after Ctrl-C.
    """
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (PocketdetError, CycloptsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output, such as "head", has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    return code if isinstance(code, int) else GOOD


def examples(*lines: str) -> str:
    """The last part of a help text."""
    return "Examples:\n\n" + "\n".join(f"    {line}" for line in lines)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_result(result: Any, as_json: bool) -> None:
    """A result that has ``to_dict`` and ``to_text``, as JSON or as text."""
    if as_json:
        print_json(result.to_dict())
    else:
        print(result.to_text())


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document))
