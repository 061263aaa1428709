"""RoboMIND: ten layouts become the same canonical store, stuck end effectors are all found and mended by kinematics.

    python tests/claims/data/robomind.py --work runs/robomind --out docs/results --episodes 20

Budget: quick, under two minutes. Trajectories of every layout are written with known joints, poses and frames by the
tests' generator, which shares no code with the converter, and converted with ``robopolicy.data.convert.engine``.
Controls that must fail: the colour rule of the other layouts, an action without its shift, the stuck pose as it is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import numpy as np
import robomind_files as files

from robopolicy.data.convert.engine import convert
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult

JOINTS = 1e-6
COLOURS = 12
REPAIRED_M = 1e-3
STUCK = ("h5_franka_1rgb", "h5_franka_3rgb", "h5_ur_1rgb", "h5_franka_fr3_dual", "h5_sim_franka_3rgb", "h5_agilex_3rgb")
WITHOUT_CHAIN = ("h5_agilex_3rgb",)


def converted(root: Path, layout: str, name: str, repair: tuple[str, ...] = (), **options: Any) -> Any:
    """Convert one embodiment folder -> report of the engine."""
    return convert(
        root / layout,
        root / f"{name}.zarr",
        format="robomind",
        options={**files.OPTIONS.get(layout, {}), **options},
        repair=repair,
        skip_bad=True,
    )


def joint_error(store: EpisodeStore, truths: list[files.Truth]) -> float:
    """Largest difference of measured and commanded joints over all episodes, rad or gripper opening."""
    names = store.embodiment.joints.names
    pairs = [("joint_position", "joint_command"), ("state", "action")]
    measured, commanded = pairs["joint_position" not in store.streams]
    worst = 0.0
    for i, truth in enumerate(truths):
        at = store.info(i)
        for stream, wanted in ((measured, truth.state), (commanded, truth.action)):
            values = store.read(stream, at["start"], at["stop"]).astype(np.float64)
            expected = np.stack([wanted[n] for n in names], axis=1)
            scale = np.maximum(np.abs(expected), 1.0)  # float32 carries seven digits, and raw hands go to a thousand
            worst = max(worst, float((np.abs(values - expected) / scale).max()))
    return worst


def colour_error(store: EpisodeStore, truths: list[files.Truth], exchanged: bool = False) -> int:
    """Largest difference of a pixel, 0 to 255."""
    worst = 0
    for i, truth in enumerate(truths):
        at = store.info(i)
        for camera, wanted in truth.frames.items():
            frames = store.read(f"image/{camera}", at["start"], at["stop"]).astype(int)
            worst = max(worst, int(np.abs((frames[..., ::-1] if exchanged else frames) - wanted).max()))
    return worst


def all_layouts(work: Path, episodes: int) -> dict[str, float]:
    """Clean trajectories of every layout."""
    joints, colours, exchanged, unshifted = 0.0, 0, 255, np.inf
    for layout in files.LAYOUTS:
        root = work / "clean" / layout
        truths = [files.write(root, layout, i, rows=20 + 2 * i) for i in range(episodes)]
        report = converted(root, layout, "set")
        if report.skipped:
            raise SystemExit(f"{layout}: {report.skipped} were refused though nothing is wrong with them")
        with EpisodeStore.open(report.out) as store:
            joints = max(joints, joint_error(store, truths))
            colours = max(colours, colour_error(store, truths))
            exchanged = min(exchanged, colour_error(store, truths, exchanged=True))
        if len(next(iter(truths[0].action.values()))) < 20:  # layouts whose action is the next row
            report = converted(root, layout, "unshifted", shift=0)
            with EpisodeStore.open(report.out) as store:
                names = store.embodiment.joints.names
                stream = "joint_command" if "joint_command" in store.streams else "action"
                rows = len(truths[0].action[names[0]])
                expected = np.stack([truths[0].action[n] for n in names], axis=1)
                unshifted = min(unshifted, float(np.abs(store.read(stream, 0, rows) - expected).max()))
    return {"joints": joints, "colours": colours, "exchanged_colours": exchanged, "unshifted_action": unshifted}


def stuck_poses(work: Path, episodes: int) -> dict[str, float]:
    """Stuck and clean trajectories: found, wrongly found, and how far a repaired pose is from the true one."""
    planted = found = clean = wrong = 0
    repaired_m, left_m = 0.0, np.inf
    for layout in STUCK:
        root = work / "stuck" / layout
        truths = [
            files.write(root, layout, i, rows=40, faults=() if i % 2 else (["stuck_ee"], ["half_stuck_ee"])[i // 2 % 2])
            for i in range(2 * episodes)
        ]
        report = converted(root, layout, "as_it_is")
        flagged = {f.episode for f in report.findings if f.kind == "stuck_channel"}
        planted, clean = planted + episodes, clean + episodes
        found += sum(t.id in flagged for t in truths[0::2])
        wrong += sum(t.id in flagged for t in truths[1::2])
        if set(report.skipped) != flagged:
            raise SystemExit(f"{layout}: an episode with a stuck pose was not refused, or another was")
        if layout in WITHOUT_CHAIN:
            continue
        report = converted(root, layout, "mended", repair=("stuck_ee",))
        arm = next(reversed(truths[0].poses))
        with EpisodeStore.open(report.out) as store:
            column = 9 * (len(truths[0].poses) - 1)
            for i, truth in enumerate(truths[0::2]):
                at = store.info(2 * i)
                pose = store.read("source/end_effector", at["start"], at["stop"])[:, column : column + 3]
                true = truth.poses[arm][:, :3, 3]
                repaired_m = max(repaired_m, float(np.linalg.norm(pose - true, axis=1).max()))
                left_m = min(left_m, float(np.linalg.norm(true - true[:1], axis=1).max()))
    return {
        "planted": planted,
        "found": found,
        "clean": clean,
        "wrongly_found": wrong,
        "repaired_m": repaired_m,
        "left_as_it_is_m": left_m,
    }


def main() -> int:
    """Write, convert, compare."""
    asked = claim_run.arguments(__doc__ or "", episodes=20)
    work = asked.work / "trajectories"
    shutil.rmtree(work, ignore_errors=True)
    layouts, stuck = all_layouts(work, asked.episodes), stuck_poses(work, asked.episodes)
    held = (
        layouts["joints"] <= JOINTS
        and layouts["colours"] <= COLOURS
        and stuck["found"] == stuck["planted"]
        and stuck["wrongly_found"] == 0
        and stuck["repaired_m"] <= REPAIRED_M
    )
    failed = (
        layouts["exchanged_colours"] > COLOURS
        and layouts["unshifted_action"] > JOINTS
        and stuck["left_as_it_is_m"] > REPAIRED_M
    )
    control = {k: v for k, v in {**layouts, **stuck}.items() if k in ("exchanged_colours", "unshifted_action")}
    result = ClaimResult(
        claim="All ten RoboMIND layouts give the joints and colours that were recorded; every stuck end effector is "
        "found, no clean one, and kinematics mend it to a millimetre",
        source="RoboMIND (arXiv 2412.13877), its file documents, and RoboMIND-dataset-utils",
        command=f"python tests/claims/data/robomind.py --work runs/robomind --episodes {asked.episodes}",
        commit=claim_run.commit(),
        target=f"joints <= {JOINTS:g} (relative above 1), colours <= {COLOURS} of 255, "
        f"100 % of stuck and 0 % of clean found, repaired <= {REPAIRED_M} m",
        value={
            "layouts": len(files.LAYOUTS),
            "joints": layouts["joints"],
            "colours_of_255": layouts["colours"],
            **{k: stuck[k] for k in ("planted", "found", "clean", "wrongly_found", "repaired_m")},
        },
        interval=None,
        n=len(files.LAYOUTS) * asked.episodes + 2 * len(STUCK) * asked.episodes,
        seeds=[41],
        control={
            "what": "colours of the other rule (of 255), action without its shift (rad), stuck pose left as it is (m)",
            "value": {**control, "left_as_it_is_m": stuck["left_as_it_is_m"]},
            "failed": failed,
        },
        passed=held and failed,
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, asked.out, "data", "robomind")
    return 0 if result.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
