"""Data sets: convert, inspect, check, edit, export and measure episode stores.

Examples:
  robopolicy data convert SRC runs/set.zarr
  robopolicy data info runs/set.zarr
  robopolicy data convert --help
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from robopolicy.cli.main import help_of, verbs
from robopolicy.errors import CommandError, explain, suggest

__all__ = ["run"]

FOLDER = Path(__file__).parent / "dataset"
ORDER = (
    "convert",
    "info",
    "view",
    "validate",
    "repair",
    "stats",
    "merge",
    "split",
    "filter",
    "delete",
    "undelete",
    "compact",
    "export",
    "bench",
)


def run(argv: Sequence[str]) -> int:
    """Run one subcommand.

    Raises:
        CommandError: none named, or an unknown one.
    """
    known = verbs(FOLDER, ORDER)
    if not argv:
        print("\n".join(["usage: robopolicy data <command> ...", "", *(f"  {n:<10}{s}" for n, s in known.items())]))
        return 0
    name, rest = argv[0], list(argv[1:])
    if name not in known:
        mend = suggest(name, known) or "see robopolicy data"
        raise CommandError(explain("no such data command", given=name, allowed=list(known), mend=mend))
    module = importlib.import_module(f"robopolicy.cli.dataset.{name}")
    if {"-h", "--help"} & set(rest):
        print(help_of(f"data {name}", module))
        if hasattr(module, "more_help"):
            print(module.more_help([word for word in rest if "=" in word]))
        return 0
    return int(module.run(rest))
