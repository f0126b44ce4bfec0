"""The configuration language of darknet (.cfg): sections, their options, and where each of them stands."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError

T = TypeVar("T")
NOTE = "# pocketdet: "


@dataclasses.dataclass(frozen=True)
class Section:
    """One section, ``[kind]`` and the lines ``option=value`` below it.

    Args:
        kind: The word in brackets.
        line: Where it stands, from 1.
        file: For error messages.
        options: Values as they are written.
        lines: Where each option stands.
    """

    kind: str
    line: int
    file: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; without a default the option must be there."""
        return self._read(name, default, int, "a whole number")

    def number(self, name: str, default: float) -> float:
        """A number."""
        return self._read(name, default, float, "a number")

    def text(self, name: str, default: str) -> str:
        """A word."""
        return self._read(name, default, str, "a word")

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Whole numbers, with commas between them."""
        return self._read(name, default, _integers, "whole numbers, with commas between them")

    def numbers(self, name: str) -> tuple[float, ...]:
        """Numbers, with commas between them."""
        return self._read(name, None, _numbers, "numbers, with commas between them")

    def error(self, message: str, option: str = "") -> ModelFileError:
        """What to raise: names the file and the line of the section, or of one of its options."""
        return ModelFileError(f"{self.file}:{self.lines.get(option, self.line)}: [{self.kind}] {message}")

    def _read(self, name: str, default: T | None, convert: Callable[[str], T], expected: str) -> T:
        if name not in self.options:
            if default is None:
                raise self.error(f'has no "{name}"; expected {name}={expected}')
            return default
        try:
            return convert(self.options[name])
        except ValueError as error:
            raise self.error(f'"{name}" is "{self.options[name]}"; expected {expected}', name) from error


def parse(text: str, file: str) -> list[Section]:
    """Split a configuration into its sections.

    Args:
        text: Its content.
        file: For error messages.

    Raises:
        ModelFileError: A line is neither empty, a comment, ``[kind]`` nor ``option=value``; or the first section is not
            ``[net]``.
    """
    sections: list[Section] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content or content.startswith(";"):
            continue
        name, equals, value = (part.strip() for part in content.partition("="))
        if content.startswith("[") and content.endswith("]"):
            sections.append(Section(content[1:-1].strip(), number, file, {}, {}))
        elif equals and name and sections:
            last = sections[-1]
            sections[-1] = dataclasses.replace(
                last, options={**last.options, name: value}, lines={**last.lines, name: number}
            )
        else:
            raise ModelFileError(
                f'{file}:{number}: "{content[:60]}"; expected [section] or option=value below a section'
            )
    if not sections or sections[0].kind not in ("net", "network"):
        raise ModelFileError(f"{file}: no darknet configuration: the first section must be [net]")
    return sections


def write_note(metadata: ModelMetadata) -> str:
    """A first line that darknet takes for a comment: what a configuration has no place for, such as class names."""
    return f"{NOTE}{dataclasses.replace(metadata, configuration='').to_json()}\n"


def read_note(text: str, file: str) -> ModelMetadata | None:
    """What ``write_note`` wrote, if the configuration has it.

    Raises:
        ModelFileError: It was changed.
    """
    line = text.partition("\n")[0]
    return ModelMetadata.from_json(line.removeprefix(NOTE), f"{file}:1") if line.startswith(NOTE) else None


def write_sections(sections: Sequence[Section]) -> str:
    """The text of sections; comments are gone."""
    return "\n".join(
        "\n".join((f"[{section.kind}]", *(f"{name}={value}" for name, value in section.options.items()), ""))
        for section in sections
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.rstrip(", ").split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.rstrip(", ").split(","))
