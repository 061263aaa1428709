"""Evaluate many policies on many tasks and put everything on one page.

Every policy is evaluated on every task with every robot that it fits; what does not fit is left out and listed. The
page has the table of success rates with intervals, the differences against one of the policies on the same episodes
(corrected for their number), curves against latency and robustness where asked, and links to the single reports. Given
again, finished reports are kept and only what is missing is run.

Examples:
  robopolicy suite 'policies=[runs/a,expert,null]' 'tasks=[pick_place,stack]' episodes=50 out=runs/suite
  robopolicy suite 'policies=[runs/a,runs/b@best]' tasks=[pick_place] base=a 'latency_ms=[0,100,200]' out=runs/latency
  robopolicy suite 'policies=[runs/a]' tasks=[pick_place] 'variant=[nominal,shifted,heavy]' out=runs/robust
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.cli.eval import episode_indices
from robopolicy.config import setting
from robopolicy.control.config import ControlConfig

__all__ = ["CONFIG", "SuiteConfig", "run"]


@dataclass(frozen=True)
class SuiteConfig:
    """Keys of ``robopolicy suite``."""

    policies: str | tuple[str | None, ...] = setting("run folders (runs/a, runs/a@best), expert, null, random")
    tasks: str | tuple[str, ...] = setting("names of tasks")
    embodiments: str | tuple[str, ...] = setting("names of robots")
    out: str = setting("folder of the page and the single reports")
    base: str | None = setting("policy that the others are compared with; null: the first")
    episodes: int | str = setting('how many per task, or indices as "100:200"', ge=1)
    split: Literal["test", "val", "train"] = setting("test was never seen in training")
    variant: str | tuple[str, ...] = setting("nominal, shifted or heavy; a list is a robustness table")
    latency_ms: float | tuple[float, ...] = setting("from observation to action; a list is a sweep", ge=0)
    continue_after_success_s: float = setting("go on after success, to see whether it lasts", ge=0)
    videos: int = setting("how many failures of each report are filmed", ge=0)
    workers: int = setting("processes that simulate", ge=1)
    inference: Literal["auto", "worker", "shared"] = setting("see robopolicy eval")
    inference_batch: int = setting("rows of every pass of a shared policy", ge=1)
    device: str = setting("auto, cpu, cuda, cuda:1, mps")
    weights: Literal["ema", "raw"] = setting("averaged weights, or those of the last step")
    overwrite: bool = setting("run everything again")
    control: ControlConfig = setting("settings of the executor")


CONFIG = SuiteConfig


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write suite.json and suite.html, print the table."""
    config = parse(SuiteConfig, "suite", argv)
    indices = episode_indices(config.episodes)
    from robopolicy.cli.suite_run import evaluate_suite, labels, listed
    from robopolicy.evaluation.files import write_json
    from robopolicy.evaluation.html import write_html
    from robopolicy.evaluation.suite import summarise_suite
    from robopolicy.evaluation.suite_page import suite_sections

    names = labels([policy or "null" for policy in listed(config.policies)])  # YAML reads null as nothing
    base = config.base or next(iter(names))
    cells = evaluate_suite(config, names, base, indices, say=lambda text: print(text, file=sys.stderr, flush=True))
    summary = summarise_suite(cells, base=base, command=shlex.join(["robopolicy", "suite", *argv]))
    out = Path(config.out)
    write_json(out / "suite.json", summary)
    write_html(out / "suite.html", "Suite", suite_sections(summary), subtitle=f"{len(names)} policies")
    _show(summary)
    print(f"page: {out / 'suite.html'}")
    return 0


def _show(summary: dict[str, Any]) -> None:
    cells = {(cell["policy"], cell["column"]): cell for cell in summary["cells"]}
    for column in summary["columns"]:
        print(column)
        for policy in summary["policies"]:
            cell = cells.get((policy["name"], column))
            if cell is not None:
                low, high = cell["wilson_95"]
                counts = f"{cell['successes']} of {cell['n']}"
                print(f"  {policy['name']:<16} {cell['success_rate']:.3f} ({low:.3f} to {high:.3f})  {counts}")
    for row in summary["overall"]:
        low, high = row["interval_95"]
        print(
            f"{row['policy']} minus {summary['base']}: {row['difference'] * 100:+.1f} points ({low * 100:+.1f} to "
            f"{high * 100:+.1f}), p = {row['holm_p']:.2g} (Holm)"
        )
    for row in summary["left_out"]:
        print(f"left out: {row['policy']} on {row['column']}: {row['why']}")
    for note in summary["notes"]:
        print(f"note: {note}")
