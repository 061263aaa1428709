"""pick_place in TCP increments, learnt on two arms, on a third: without a demonstration of it, and with ten.

    python tests/claims/simulation/cross_embodiment.py --work runs/claims/cross --out docs/results

Budget: full, about 35 minutes on one core (three trainings of at most 15 minutes, 100 test episodes for every row);
--budget smoke trains 20 steps on few demonstrations, evaluates 3 episodes and says only that everything runs. What is
finished in --work is not done again, a training that was cut goes on. It writes what it did, row by row:

- the training robots themselves, with the policy of both;
- xarm7 zero-shot: the same weights, bound with the ranges that panda lends (``like=panda``); without ``like`` refused;
- xarm7 with ten demonstrations of it as a third of every batch of that mixture;
- control: the same recipe on those ten demonstrations alone. It has to fail: clearly fewer of the same episodes solved.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import yaml

from robopolicy.errors import EmbodimentMismatchError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.compare import compare
from robopolicy.evaluation.report import read_report

RECIPE, MIXTURES = "cross_embodiment/ee_delta", Path(__file__).resolve().parents[3] / "configs" / "mixture"
SEEN, NEW, LENDER = ("panda", "ur5e_2f85"), "xarm7", "panda"
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"demonstrations": 200, "few": 10, "steps": None, "episodes": 100},
    "smoke": {"demonstrations": 6, "few": 4, "steps": 20, "episodes": 3},
}
LEAST_SEEN, LEAST_ZERO_SHOT, LEAST_FEW, ALPHA = 0.85, 0.50, 0.80, 0.05
COMMAND = "python tests/claims/simulation/cross_embodiment.py --work runs/claims/cross --out docs/results"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: What it is called there.
        policy: Folder of the run below ``--work``, or a baseline.
        robot: On which it is tried.
        like: Robot that lends its ranges.
    """

    name: str
    policy: str
    robot: str
    like: str | None = None

    def folder(self, work: Path) -> Path:
        """Of its report."""
        return work / "eval" / self.name.replace(" ", "_").replace(",", "")


ROWS = (
    *(Row(f"trained on both, {robot}", "both", robot) for robot in SEEN),
    Row(f"zero-shot, {NEW}", "both", NEW, LENDER),
    Row(f"with ten demonstrations, {NEW}", "few", NEW),
    Row(f"ten demonstrations alone, {NEW}", "alone", NEW),
    Row(f"null, {NEW}", "null", NEW),
)
ZERO_SHOT, FEW, ALONE, NULL = ROWS[-4:]


def collect(work: Path, settings: dict[str, Any]) -> None:
    """Demonstrations of the split ``train``: many of each arm that is seen, few of the new one."""
    wanted = dict.fromkeys(SEEN, settings["demonstrations"]) | {f"{NEW}_few": settings["few"]}
    for name, episodes in wanted.items():
        words = (f"embodiment={name.removesuffix('_few')}", f"episodes={episodes}", "workers=1")
        claim_run.robopolicy("collect", "task=pick_place", *words, f"out={work / name}.zarr", log=work / "collect.log")


def mixture(work: Path, name: str) -> Path:
    """A packaged mixture with the stores of ``work`` in the place of its own."""
    content = yaml.safe_load((MIXTURES / f"{name}.yaml").read_text())
    for store in content["stores"]:
        store["path"] = str(work / Path(store["path"]).name)
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def train(run: Path, data: Path, steps: int | None, *overrides: str) -> dict[str, Any]:
    """By the recipe as it is; resumed if it was cut. -> what the run recorded of itself."""
    if not (run / "train.json").is_file():
        log = Path(f"{run}.log")
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            shorter = () if steps is None else (f"recipe.stages.policy.steps={steps}",)
            words = (f"recipe={RECIPE}", f"data={data}", f"out={run}", "progress=false", *shorter, *overrides)
            claim_run.robopolicy("train", *words, log=log)
    found: dict[str, Any] = json.loads((run / "train.json").read_text())
    return found


def evaluate(row: Row, work: Path, episodes: int) -> dict[str, Any]:
    """The report of a row, over the first test indices."""
    out = row.folder(work)
    if not (out / "report.html").is_file():
        policy = work / row.policy if row.policy != "null" else row.policy
        words = [f"policy={policy}", "task=pick_place", f"embodiment={row.robot}", f"episodes={episodes}", "workers=1"]
        words += [f"like={row.like}"] if row.like else []
        claim_run.robopolicy("eval", *words, f"out={out}", log=work / "eval.log")
    return read_report(out)


def refused_without_like(run: Path) -> bool:
    """Whether the policy declines to drive the robot that it has not seen when nobody lends it ranges."""
    from robopolicy.policies.loading import load_policy

    try:
        load_policy(run, embodiment=NEW)
    except EmbodimentMismatchError:
        return True
    return False


def entry(table: dict[str, dict[str, Any]], runs: dict[str, Any], work: Path, settings: dict[str, Any]) -> ClaimResult:
    """Judge the table."""
    rate: Callable[[Row], float] = lambda row: table[row.name]["rate"]  # noqa: E731
    paired = compare(FEW.folder(work), ALONE.folder(work))
    refused = refused_without_like(work / "both")
    fails = rate(ALONE) < rate(FEW) and paired["mcnemar_p"] < ALPHA
    reached = (
        refused
        and all(rate(row) >= LEAST_SEEN for row in ROWS[:2])
        and rate(ZERO_SHOT) >= LEAST_ZERO_SHOT
        and rate(FEW) >= LEAST_FEW
    )
    return ClaimResult(
        claim="pick_place by TCP increments, learnt on panda and ur5e_2f85, carries over to xarm7: zero-shot, and "
        "better with ten demonstrations than these alone",
        source="own; relative TCP actions: Chi et al. 2024, arXiv 2402.10329, section IV",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"seen arms >= {LEAST_SEEN}, zero-shot >= {LEAST_ZERO_SHOT}, with ten >= {LEAST_FEW}, "
        f"alone less by exact McNemar p < {ALPHA}, refused without like",
        value={
            "table": table,
            "ten added against ten alone": {k: paired[k] for k in ("only_a", "only_b", "difference", "mcnemar_p")},
            "refused without like": refused,
            "demonstrations": {"each seen arm": settings["demonstrations"], NEW: settings["few"]},
            "trainings": {n: {k: r.get(k) for k in ("steps", "wall_s", "cpu_s")} for n, r in runs.items()},
        },
        interval=table[ZERO_SHOT.name]["wilson_95"],
        n=table[ZERO_SHOT.name]["n"],
        seeds=[0],
        control={"what": ALONE.name, "value": rate(ALONE), "failed": fails},
        passed=reached and fails,
        cpu_s=claim_run.recorded_cpu_s(work),
    )


def main() -> None:
    """Run what is missing, show the table, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], budget="full")
    settings, work = SETTINGS[options.budget], options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    collect(work, settings)
    every = "recipe.stages.policy.validation.fraction=0"  # of ten demonstrations none can be spared
    runs = {
        "both": train(work / "both", mixture(work, "cross_embodiment"), settings["steps"]),
        "few": train(work / "few", mixture(work, "cross_embodiment_few"), settings["steps"], every),
        "alone": train(work / "alone", work / f"{NEW}_few.zarr", settings["steps"], every),
    }
    table = {}
    for row in ROWS:
        report = evaluate(row, work, settings["episodes"])
        figures = {"n": report["n"], "rate": report["success_rate"], "wilson_95": report["wilson_95"]}
        table[row.name] = figures
        low, high = figures["wilson_95"]
        print(f"  {row.name:<32} {figures['rate']:.2f} ({low:.2f} to {high:.2f}), n = {figures['n']}")
    result = entry(table, runs, work, settings)
    claim_run.write(result, options.out if options.budget == "full" else None, "simulation", "cross_embodiment")


if __name__ == "__main__":
    main()
