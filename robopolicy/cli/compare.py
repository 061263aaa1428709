"""Compare two evaluations episode by episode: difference with its interval, exact paired test, verdict in words.

Only episodes that are in both reports count, and they must have begun from the same states.

Examples:
  robopolicy compare runs/a/eval runs/b/eval
  robopolicy compare runs/a/eval runs/b/eval out=runs/a_versus_b
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "CompareConfig", "run"]


@dataclass(frozen=True)
class CompareConfig:
    """Keys of ``robopolicy compare``."""

    a: str = setting("folder of the first report; also the first argument")
    b: str = setting("folder of the second report; also the second argument")
    out: str | None = setting("folder for compare.json and compare.html")


CONFIG = CompareConfig


def run(argv: Sequence[str]) -> int:
    """Print the verdict, and write the comparison where asked."""
    config = parse(CompareConfig, "compare", argv, positional=("a", "b"))
    from robopolicy.evaluation.compare import compare

    result = compare(config.a, config.b, out=config.out)
    for side in ("a", "b"):
        found = result[side]
        low, high = found["wilson_95"]
        where = f"{found['policy']} in {found['path']}"
        print(f"{side.upper()}: {found['successes']} of {found['n']} ({low:.3f} to {high:.3f})  {where}")
    print(f"both {result['both']}, only A {result['only_a']}, only B {result['only_b']}, neither {result['neither']}")
    print(result["verdict"])
    for note in result["notes"]:
        print(f"note: {note}")
    if config.out:
        print(f"written to {config.out}/compare.html")
    return 0
