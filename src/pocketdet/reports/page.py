"""HTML by hand: a page that needs nothing but itself. Everything that is no markup is escaped here."""

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pocketdet.reports.gallery import Example, to_data_url

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --dim: #5b6670; --paper: #fff; --line: #d9dee3; --heat: 0, 114, 178; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ea; --dim: #98a3ad; --paper: #16191c; --line: #343a40; --heat: 40, 125, 185; } }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0 .8rem; color: var(--dim); max-width: 52rem; }
nav a { display: inline-block; margin-right: 1rem; color: inherit; }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1rem 0; }
dt { color: var(--dim); font-size: .85rem; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal; }
th:first-child, table.facts td { text-align: left; min-width: 9rem; }
th:first-child { max-width: 20rem; overflow-wrap: break-word; }
table.facts td { overflow-wrap: anywhere; }
@media (max-width: 40rem) { table:not(.facts) td { white-space: nowrap; } }
thead th { color: var(--dim); vertical-align: bottom; word-break: keep-all; }
tr.sum th, tr.sum td { font-weight: 600; }
table.heat td { min-width: 2rem; background: rgba(var(--heat), var(--share, 0)); }
svg { display: block; max-width: 100%; min-width: 44rem; height: auto; margin: .8rem 0; }
svg text { font-family: system-ui, sans-serif !important; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { max-width: 100%; max-height: 15rem; border-radius: 4px; }
figure.large img { max-height: none; }
figcaption { font-size: .8rem; color: var(--dim); overflow-wrap: anywhere; }
li { overflow-wrap: anywhere; }
"""


class Section(NamedTuple):
    """A part of the page."""

    title: str
    meaning: str  # how to read it, as plain text
    body: str  # HTML


def page(title: str, figures: Iterable[tuple[str, str]], sections: Sequence[Section], language: str = "en") -> str:
    """A whole document.

    Args:
        title: Plain text.
        figures: Names and values that stand large at the top, as plain text.
        sections: In order.
        language: Of all texts, as HTML names it.
    """
    top = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    links = "".join(f'<a href="#part{n}">{escape(section.title)}</a> ' for n, section in enumerate(sections))
    parts = "".join(
        f'<section id="part{n}"><h2>{escape(section.title)}</h2><p>{escape(section.meaning)}</p>{section.body}'
        "</section>\n"
        for n, section in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="{escape(language)}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<dl>{top}</dl>\n<nav>{links}</nav>\n{parts}</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], has_sum: bool = False) -> str:
    """Rows of plain text, the first column their name; the last row may be a sum or mean of the others."""
    body = [f"<tr><th>{escape(row[0])}</th>{_cells(row[1:])}</tr>" for row in rows]
    if has_sum:
        body[-1] = body[-1].replace("<tr>", '<tr class="sum">', 1)
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def facts(values: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line."""
    rows = "".join(f"<tr><th>{escape(name)}</th>{_cells([_plain(value)])}</tr>" for name, value in values)
    return f'<div class="wide"><table class="facts">{rows}</table></div>'


def heat_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A square table of counts; the darker a cell, the larger its share of the row.

    Args:
        names: Of the rows and, in the same order, the columns.
        counts: Row by row.
    """
    rows = []
    for name, row in zip(names, counts, strict=True):
        largest = max(1, sum(row))
        cells = "".join(
            f'<td style="--share:{0.85 * count / largest:.2f}">{count}</td>' if count else "<td></td>" for count in row
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<div class="wide"><table class="heat"><thead><tr><th>labelled as ↓ found as →</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def pictures(title: str, examples: Sequence[Example]) -> str:
    """Pictures with their captions, side by side."""
    shown = "".join(
        f'<figure><img src="{to_data_url(example.jpeg)}" alt="">'
        f"<figcaption>{escape(example.caption)}</figcaption></figure>"
        for example in examples
    )
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{heading}<div class="pictures">{shown or "<p>none</p>"}</div>'


def large_picture(jpeg: bytes) -> str:
    """One picture over the whole width."""
    return f'<figure class="large"><img src="{to_data_url(jpeg)}" alt=""></figure>'


def drawing(svg: str) -> str:
    """A chart, which keeps its size on a phone and is moved sideways there: its letters would be too small to read."""
    return f'<div class="wide">{svg}</div>'


def bullets(lines: Iterable[str]) -> str:
    """A list of plain text."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def escape(text: str) -> str:
    """Plain text as HTML."""
    return html.escape(text)


def _cells(values: Iterable[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _plain(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(_plain(item) if not isinstance(item, tuple | list) else f"({_plain(item)})" for item in value)
    return "-" if value is None else str(value)
