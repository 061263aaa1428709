"""`robopolicy demo` as a newcomer runs it: every stage, its figures against what they have to be.

    python tests/claims/foundation/demo.py --work runs/claims --out docs/results

Budget: full, about 12 minutes on two cores that have nothing else to do. A finished demo in --work is not run again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.files import read_json

MOST_MINUTES = 12


def judge(report: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    """Name -> (measured, as it has to be)."""
    expert, null, trained, deploy = (report[name] for name in ("expert", "null", "eval", "deploy"))
    apart = abs(deploy["success_rate"] - trained["success_rate"])
    minutes = report["seconds"]["total"] / 60
    kill = deploy["kill_test"]
    violations = sum(deploy["violations"].values())
    return {
        "expert": (expert["success_rate"], expert["success_rate"] >= 0.97),
        "trained": (trained["success_rate"], trained["success_rate"] >= 0.90),
        "trained, Wilson lower": (round(trained["wilson_95"][0], 3), trained["wilson_95"][0] >= 0.82),
        "demonstrations": (report["collect"]["episodes"], report["collect"]["episodes"] <= 200),
        "null": (null["success_rate"], null["success_rate"] <= 0.02),
        "deploy": (deploy["success_rate"], apart <= 0.10),
        "deploy episodes": (deploy["n"], deploy["n"] >= 20),
        "missing setpoints": (deploy["missing_setpoints"], deploy["missing_setpoints"] == 0),
        "interruptions": (deploy["interruptions"], deploy["interruptions"] == 0),
        "largest seam step": (deploy["max_seam_velocity_step"], deploy["max_seam_velocity_step"] <= 1.000001),
        "out of limits": (violations, violations == 0),
        "kill test": (f"{kill['state']}, at rest {kill['at_rest']}", kill["passed"]),
        "setpoint_hz": (round(deploy["setpoint_hz"], 1), deploy["setpoint_hz"] >= 99.0),
        "minutes": (round(minutes, 1), minutes <= MOST_MINUTES),
    }


def main() -> None:
    """Run the demo if it is not done, judge it, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    out = options.work / "demo"
    if not (out / "report.html").is_file():
        claim_run.robopolicy("demo", f"out={out}", log=options.work / "demo.log")
    report = read_json(out / "report.json", "demo report")
    judged = judge(report)
    control = report["null"]["success_rate"]
    result = ClaimResult(
        claim="one command collects, trains, evaluates and deploys on panda: success, safety and time as stated",
        source="own",
        command="python tests/claims/foundation/demo.py --work runs/claims --out docs/results",
        commit=claim_run.commit(),
        target=f"expert >= 0.97, trained >= 0.90 with lower bound >= 0.82, deploy within 0.10, <= {MOST_MINUTES} min",
        value={name: measured for name, (measured, _) in judged.items()},
        interval=report["eval"]["wilson_95"],
        n=report["eval"]["n"],
        seeds=[0],
        control={"what": "null policy", "value": control, "failed": control <= 0.02},
        passed=all(ok for _, ok in judged.values()),
        cpu_s=claim_run.recorded_cpu_s(out),
    )
    for name, (measured, ok) in judged.items():
        print(f"  {'ok  ' if ok else 'MISS'} {name}: {measured}")
    claim_run.write(result, options.out, "foundation", "demo")


if __name__ == "__main__":
    main()
