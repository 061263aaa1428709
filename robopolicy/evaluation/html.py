"""Self-contained HTML pages from blocks: inline style, no script, no network, light and dark, escaped by construction.

A block is :class:`Markup`; a plain ``str`` in the place of a block becomes an escaped paragraph. So text can only reach
the page escaped::

    blocks = [tiles([("success", "100 %", "100 of 100", "good")]), "The scripted expert."]
    write_html("report.html", "Demo", [Section("Expert", blocks)])
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from robopolicy.evaluation.files import write_text
from robopolicy.evaluation.style import CSS

__all__ = [
    "Markup",
    "Section",
    "code",
    "columns",
    "details",
    "facts",
    "figure",
    "paragraph",
    "render",
    "table",
    "tiles",
    "video",
    "write_html",
]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_TONES = {"good": "✓ ", "bad": "✗ ", "warn": "! ", "": ""}
_MAGIC = (
    (re.compile(rb"RIFF....WEBP", re.S), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
)


class Markup(str):
    """HTML that a function of this module made; the only text that a page takes unescaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: Heading, plain text.
        blocks: :class:`Markup` from the functions below; a plain string becomes a paragraph.
    """

    title: str
    blocks: Sequence[Markup | str]


def paragraph(text: str) -> Markup:
    """Escaped text as a paragraph."""
    return Markup(f"<p>{_text(text)}</p>")


def code(text: str) -> Markup:
    """A command or a listing, kept as it is."""
    return Markup(f'<pre tabindex="0"><code>{_text(text)}</code></pre>')


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Names with their values, one a line; None is shown as a dash."""
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_cell(value)}</dd>" for name, value in pairs.items())
    return Markup(f"<dl>{rows}</dl>")


def tiles(items: Iterable[tuple[str, str, str, str]]) -> Markup:
    """Headline figures: (label, value, note, tone) with tone ``good``, ``bad``, ``warn`` or empty."""
    parts = [
        f'<div class="tile {tone if tone in _TONES else ""}"><div class="label">{_text(label)}</div>'
        f'<div class="value">{_text(value)}</div><div class="note">{_TONES.get(tone, "")}{_text(note)}</div></div>'
        for label, value, note, tone in items
    ]
    return Markup(f'<div class="tiles">{"".join(parts)}</div>')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, tones: Sequence[str] = ()) -> Markup:
    """A table that scrolls sideways on a narrow screen.

    Args:
        head: Column titles.
        rows: One sequence per row; numbers are set right, None is a dash, True and False are words with a sign.
        tones: ``good`` or ``bad`` per row, may be empty.
    """
    rows, body = [list(row) for row in rows], []
    right = [any(_number(row[i]) for row in rows if i < len(row)) for i in range(len(head))]
    for number, row in enumerate(rows):
        tone = tones[number] if number < len(tones) and tones[number] in _TONES else ""
        cells = "".join(f"<td{' class=num' if _number(cell) else ''}>{_cell(cell)}</td>" for cell in row)
        body.append(f'<tr class="{tone}">{cells}</tr>')
    titles = "".join(
        f'<th scope="col"{" class=num" if number else ""}>{_text(title)}</th>'
        for title, number in zip(head, right, strict=True)
    )
    return Markup(
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> Markup:
    """A plot of :mod:`robopolicy.evaluation.svg` with its caption."""
    return Markup(f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>")


def columns(*blocks: Markup | str) -> Markup:
    """Blocks side by side where the screen is wide enough."""
    return Markup(f'<div class="columns">{"".join(_block(block) for block in blocks)}</div>')


def details(summary: str, *blocks: Markup | str, opened: bool = False) -> Markup:
    """Blocks behind a line that unfolds them."""
    inner = "".join(_block(block) for block in blocks)
    return Markup(f"<details{' open' if opened else ''}><summary>{_text(summary)}</summary>{inner}</details>")


def video(path: str | os.PathLike[str], caption: str, *, success: bool | None = None) -> Markup:
    """An animated picture (WebP, GIF or PNG) carried inside the page as base64.

    Args:
        path: The file. If it is missing or of another kind the caption says so; a report is not lost for a video.
        caption: Plain text.
        success: Adds the verdict to the caption in words and colour.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError):  # ValueError: a name that no file system can hold
        data = b""
    kind = next((name for magic, name in _MAGIC if magic.match(data)), None)
    if kind is None:
        reason = "not a WebP, GIF or PNG file" if data else "file missing"
        picture = f'<div class="novideo">no video: {reason}</div>'
    else:
        encoded = base64.b64encode(data).decode("ascii")
        picture = f'<img alt="{_text(caption)}" decoding="async" src="data:{kind};base64,{encoded}">'
    tone = "" if success is None else "good" if success else "bad"
    verdict = "" if success is None else f'<b class="{tone}">{_cell(bool(success))}</b> '
    return Markup(f'<figure class="video {tone}">{picture}<figcaption>{verdict}{_text(caption)}</figcaption></figure>')


def render(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The page as text."""
    parts = [
        f'<section id="s{number}"><h2>{_text(section.title)}</h2>{"".join(_block(b) for b in section.blocks)}</section>'
        for number, section in enumerate(sections)
    ]
    links = "".join(f'<a href="#s{number}">{_text(section.title)}</a>' for number, section in enumerate(sections))
    nav = f"<nav>{links}</nav>" if len(sections) > 1 else ""
    sub = f'<p class="sub">{_text(subtitle)}</p>' if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(title)}</title><style>{CSS}</style></head>\n"
        f"<body><header><h1>{_text(title)}</h1>{sub}{nav}</header>\n"
        f"<main>{''.join(parts)}</main></body></html>\n"
    )


def write_html(path: str | os.PathLike[str], title: str, sections: Sequence[Section], *, subtitle: str = "") -> Path:
    """Write a page whole.

    Args:
        path: File to write.
        title: Heading and window title.
        sections: Parts in order; with more than one the page gets a line of links.
        subtitle: A line under the heading.

    Raises:
        StorageError: the disk is full or refuses; an earlier page is intact.
    """
    write_text(path, render(title, sections, subtitle=subtitle))
    return Path(path)


def _block(block: Markup | str) -> str:
    return block if isinstance(block, Markup) else paragraph(block)


def _number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _cell(cell: Any) -> str:
    if cell is None:
        return '<span class="muted">\u2013</span>'
    if isinstance(cell, bool):
        return "✓ success" if cell else "✗ failure"
    if isinstance(cell, float):
        return _text(f"{cell:.4g}")
    return cell if isinstance(cell, Markup) else _text(str(cell))


def _text(text: Any) -> str:
    """Escaped; control characters, which no page may hold, become the replacement character."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", str(text)), quote=True)
