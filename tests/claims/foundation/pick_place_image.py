"""Two cameras and no privileged state: success of the last checkpoint on 100 unseen episodes.

    python tests/claims/foundation/pick_place_image.py --work runs/claims --out docs/results

Budget: full, about 70 minutes on two cores, at most 45 of them training. What is finished in --work is not done again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.files import read_json
from robopolicy.evaluation.report import read_report

RECIPE = "pick_place/diffusion_image"
DEMONSTRATIONS, EPISODES, LEAST, MOST_MINUTES = 200, 100, 0.70, 45


def main() -> None:
    """Run what is missing, then write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], threads=2)
    work = options.work
    store, run, log = work / "panda_image.zarr", work / "panda_image", work / "panda_image.log"
    words = ("task=pick_place", "embodiment=panda", "cameras=[front,wrist]", f"episodes={DEMONSTRATIONS}")
    claim_run.robopolicy("collect", *words, f"out={store}", log=log)
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = (f"recipe={RECIPE}", f"recipe.threads={options.threads}", "progress=false")
            claim_run.robopolicy("train", *words, f"data={store}", f"out={run}", log=log)
    baseline = ("policy=null", "task=pick_place", "embodiment=panda")
    for out, subject in ((run / "eval", (f"policy={run}",)), (work / "null_image", baseline)):
        if not (out / "report.html").is_file():
            claim_run.robopolicy("eval", *subject, f"episodes={EPISODES}", f"out={out}", log=log)
    report, control = read_report(run / "eval"), read_report(work / "null_image")
    minutes = read_json(run / "train.json", "training summary")["wall_s"] / 60
    failed = control["success_rate"] <= 0.02
    result = ClaimResult(
        claim=f"{RECIPE} on panda, {DEMONSTRATIONS} demonstrations, last checkpoint: unseen episodes solved",
        source="Chi et al. 2023, arXiv 2303.04137",
        command="python tests/claims/foundation/pick_place_image.py --work runs/claims --out docs/results"
        + f" --threads {options.threads}",
        commit=claim_run.commit(),
        target=f"success >= {LEAST}, training <= {MOST_MINUTES} min on two cores",
        value={"success": report["success_rate"], "training_min": round(minutes, 1), "threads": options.threads},
        interval=report["wilson_95"],
        n=report["n"],
        seeds=[0],
        control={"what": "null policy", "value": control["success_rate"], "failed": failed},
        passed=bool(report["success_rate"] >= LEAST and minutes <= MOST_MINUTES and failed),
        cpu_s=claim_run.recorded_cpu_s(run, work / "null_image"),
    )
    claim_run.write(result, options.out, "foundation", "pick_place_image")


if __name__ == "__main__":
    main()
