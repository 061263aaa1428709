"""Run the episodes of a store again, into other observations or another action space.

Every episode gets a verdict: identical (every measured value is the same), success (achieved again along the same
path), deviated (achieved along another path) or failed, which is left out of the new store. What was really executed
is replayed, noise included; the labels stay those of the expert. With mode=states nothing is simulated: the recorded
positions are shown one after the other, for other pictures of exactly the same motion.

Examples:
  robopolicy replay runs/pick.zarr out=runs/pick_rgbd.zarr 'cameras=[front]' 'depth=[front]'
  robopolicy replay runs/pick.zarr out=runs/pick_delta.zarr controller=joint_delta
  robopolicy replay runs/pick.zarr out=runs/pick_shifted.zarr variant=shifted keep_failures=true
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "ReplayConfig", "run"]


@dataclass(frozen=True)
class ReplayConfig:
    """Keys of ``robopolicy replay``."""

    source: str = setting("store of robopolicy collect; also the first argument")
    out: str = setting("new store to write")
    mode: Literal["actions", "states"] = setting("simulate the actions again, or show the recorded positions")
    cameras: tuple[str, ...] = setting("cameras to record")
    depth: tuple[str, ...] = setting("cameras whose depth is recorded, in millimetres")
    sensors: tuple[str, ...] = setting("histories to record: wrench, touch")
    point_cloud: int = setting("points of a cloud to record; 0: none", ge=0)
    qpos: bool = setting("record the positions of everything")
    controller: str | None = setting("action space of the new store; null: that of the source", registry="controller")
    variant: str | None = setting("of the simulation; null: that of the source", registry="variant")
    keep_failures: bool = setting("write failed episodes, too")
    episodes: int | None = setting("how many of the first; null: all", ge=1)
    image_codec: Literal["raw", "jpeg"] = setting("how pictures are stored")
    workers: int = setting("processes that simulate; 0: this one", ge=0)
    render_profile: Literal["fast", "stock"] = setting("picture quality")


CONFIG = ReplayConfig


def run(argv: Sequence[str]) -> int:
    """Write the new store, then say how the episodes went."""
    config = parse(ReplayConfig, "replay", argv, positional=("source",))
    from robopolicy.cli.progress import Progress
    from robopolicy.data.store import EpisodeStore
    from robopolicy.sim.record import Recording
    from robopolicy.sim.replay import replay

    with EpisodeStore.open(config.source) as store:
        count = min(store.num_episodes, config.episodes or store.num_episodes)
    with Progress(f"replay of {config.source}", count) as bar:
        done = replay(
            config.source,
            config.out,
            record=Recording(config.cameras, config.depth, config.sensors, config.point_cloud, config.qpos),
            controller=config.controller,
            variant=config.variant,
            mode=config.mode,
            keep_failures=config.keep_failures,
            episodes=range(count),
            workers=config.workers,
            codec=config.image_codec,
            render_profile=config.render_profile,
            progress=lambda number, wanted, verdict: bar.show(number),
        )
    words = ", ".join(f"{number} {name}" for name, number in done.counts.items())
    print(f"{done.path}: {done.written} of {len(done.verdicts)} episodes written ({words})")
    worst = max(done.verdicts, key=lambda verdict: verdict.deviation, default=None)
    if worst is not None and worst.deviation > 0:
        print(f"largest deviation {worst.deviation:.4g} in {worst.channel} of episode {worst.episode}")
    print(f"each verdict: {done.summary_path}")
    return 0 if done.written else 1
