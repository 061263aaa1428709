"""What the project claims of itself: list it, measure it again, make the table of results.

Works in a checkout: a claim is one file tests/claims/<family>/<name>.py (speed: tests/bench/<name>.py), its result
docs/results/<family>/<name>.json. Further arguments of run go to the claim.

Examples:
  robopolicy claims list
  robopolicy claims run foundation/kill_nine --work runs/kill
  robopolicy claims table            # docs/results.md from the results
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from robopolicy.errors import CommandError, UnknownNameError, explain, suggest

__all__ = ["run"]

LEDGER = Path("docs/results")
WORDS = ("list", "run", "table")


def run(argv: Sequence[str]) -> int:
    """Do what the first word says. Returns the exit code of the claim for ``run``."""
    if not argv or argv[0] not in WORDS:
        given = argv[0] if argv else "nothing"
        raise CommandError(explain("which of the three?", given=given, allowed=WORDS, mend=suggest(given, WORDS)))
    claims = _claims()
    if argv[0] == "list":
        for name, path in claims.items():
            print(f"{name:<32}{(ast.get_docstring(ast.parse(path.read_text())) or '').partition(chr(10))[0]}")
        return 0
    if argv[0] == "table":
        from robopolicy.evaluation.claims import table
        from robopolicy.evaluation.files import write_text

        target = LEDGER.with_suffix(".md")
        write_text(target, table(LEDGER))
        print(target)
        return 0
    if len(argv) < 2 or argv[1] not in claims:
        given = argv[1] if len(argv) > 1 else "nothing"
        known = list(claims)
        raise UnknownNameError(explain("no such claim", given=given, allowed=known, mend=suggest(given, known)))
    command = [sys.executable, str(claims[argv[1]]), "--out", str(LEDGER), *argv[2:]]
    return subprocess.run(command, check=False).returncode


def _claims() -> dict[str, Path]:
    """Name -> script, below the present folder."""
    found = {p.relative_to("tests/claims").with_suffix("").as_posix(): p for p in Path("tests/claims").glob("*/*.py")}
    found |= {f"bench/{p.stem.removeprefix('bench_')}": p for p in Path("tests/bench").glob("bench_*.py")}
    if not found:
        raise CommandError(
            explain("no claims below this folder", given=Path.cwd(), mend="run it in a checkout of the project")
        )
    return dict(sorted(found.items()))
