"""List what can be named in a configuration: policies, tasks, embodiments, robots, formats, recipes.

Each line is a name and the first sentence of its YAML's ``description``, or of its leading comment.

Examples:
  robopolicy list tasks
  robopolicy list formats    # in: data convert reads it; out: data export writes it
  robopolicy list            # all groups
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from robopolicy.errors import CommandError, ConfigError, UnknownNameError, explain, suggest
from robopolicy.registry import GROUPS, registry

__all__ = ["PLURALS", "describe", "directions", "run"]

PLURALS = {("policies" if group == "policy" else f"{group}s"): group for group in GROUPS}
"""What the user types -> registry group."""


def run(argv: Sequence[str]) -> int:
    """Print names with one line each.

    Raises:
        CommandError: no such group.
    """
    wanted = list(argv) or list(PLURALS)
    for word in wanted:
        if word not in PLURALS and word not in PLURALS.values():
            mend = suggest(word, PLURALS)
            raise CommandError(explain("nothing of that kind to list", given=word, allowed=list(PLURALS), mend=mend))
    for word in wanted:
        group = PLURALS.get(word, word)
        names = registry(group).names()
        if len(wanted) > 1:
            print(f"{word}:" if names else f"{word}: none yet")
        elif not names:
            print(f"no {word} yet")
        width = max((len(name) for name in names), default=0)
        for name in names:
            ways = f"{directions(name):<8}" if group == "format" else ""
            print(f"  {name:<{width}}  {ways}{describe(group, name)}".rstrip())
    return 0


def describe(group: str, name: str) -> str:
    """One line about a registry entry, empty if its YAML says nothing."""
    try:
        config = registry(group).config(name)
        text = str(config.get("description", "")) or _comment(registry(group).path(name).read_text(encoding="utf-8"))
    except (UnknownNameError, ConfigError):
        # An entry point of another package, which need not have a YAML.
        return "from an installed package"
    return re.split(r"\.\s+(?=[A-Z])", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


def directions(name: str) -> str:
    """Whether a format can be read (``in``), written (``out``), or both."""
    try:
        config = registry("format").config(name)
    except (UnknownNameError, ConfigError):
        return "in"
    return ", ".join(word for word, key in (("in", "target"), ("out", "export")) if key in config)


def _comment(text: str) -> str:
    """The leading comment without the line of the command that runs the file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("# ").rstrip()
        if words and not words.startswith("robopolicy "):
            lines.append(words)
    return " ".join(lines)
