"""Collect demonstrations with a task's scripted expert into an episode store.

Each episode is committed by itself: stop at any time and run the same command again to go on. What is stored does not
depend on the number of workers. Noise is added to what the arm executes, never to the label, so that the store also
shows the way back from small errors.

Examples:
  robopolicy collect task=pick_place embodiment=panda episodes=200 out=runs/pick.zarr
  robopolicy collect task=pick_place 'cameras=[front,wrist]' out=runs/pick_images.zarr
  robopolicy collect task=pick_place 'depth=[front]' 'sensors=[wrench,touch]' out=runs/pick_depth.zarr
  robopolicy collect task=pick_place controller=ee_delta out=runs/pick_delta.zarr    # robopolicy list controllers
  robopolicy collect task=play 'task_parameters={style: play, goals: 8}' episodes=20 out=runs/free_play.zarr
  robopolicy collect task=metaworld/pick-place-v3 episodes=100 out=runs/mw.zarr    # robopolicy list benchmarks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "CollectConfig", "Noise", "run"]


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the noise on executed actions, per control step."""

    position_m: float = setting("per axis", ge=0)
    rotation_rad: float = setting("of a rotation vector, per axis", ge=0)
    share: float | None = setting("of benchmarks: share of half a range; null: as its YAML", default=None, ge=0)


@dataclass(frozen=True)
class CollectConfig:
    """Keys of ``robopolicy collect``."""

    task: str = setting("what to do; robopolicy list tasks", registry="task")
    embodiment: str | None = setting("with which robot; null: panda, or that of the benchmark")
    out: str = setting("store to write; one of the same settings is continued")
    episodes: int = setting("successful demonstrations wanted in the store", ge=1)
    cameras: tuple[str, ...] = setting("cameras to record; none for policies that read state only")
    image_codec: Literal["raw", "jpeg"] = setting("how pictures are stored")
    workers: int = setting("processes that simulate", ge=1)
    split: Literal["train", "val", "test"] = setting("which episodes")
    action_noise: Noise = setting("noise on what is executed")
    keep_failures: bool = setting("store failed episodes too, marked as such")
    render_profile: Literal["fast", "stock"] | None = setting("picture quality; null: fast, of a benchmark its own")
    task_parameters: dict[str, Any] = setting("what the task shall have otherwise than its YAML says")
    goal_images: tuple[str, ...] = setting("cameras of a picture of the goal, kept with each episode")
    controller: str | None = setting("action space of the store; null: the robot's own", registry="controller")
    variant: str = setting("of the simulation: noise, latency, light, materials", registry="variant")
    depth: tuple[str, ...] = setting("cameras whose depth is recorded, in millimetres")
    sensors: tuple[str, ...] = setting("histories to record: wrench, touch")
    point_cloud: int = setting("points of a cloud to record; 0: none", ge=0)
    qpos: bool = setting("record the positions of everything, for replay mode=states")


CONFIG = CollectConfig


def run(argv: Sequence[str]) -> int:
    """Fill the store, then say what is in it."""
    config = parse(CollectConfig, "collect", argv)
    from robopolicy.cli.progress import Progress
    from robopolicy.sim.bench.dispatch import default_embodiment
    from robopolicy.sim.collect import ActionNoise, collect
    from robopolicy.sim.record import Recording

    embodiment = config.embodiment or default_embodiment(config.task) or "panda"
    with Progress(f"{config.task} on {embodiment}", config.episodes) as bar:
        found = collect(
            config.task,
            embodiment,
            config.episodes,
            config.out,
            split=config.split,
            cameras=config.cameras,
            workers=config.workers,
            action_noise=ActionNoise(config.action_noise.position_m, config.action_noise.rotation_rad),
            noise_share=config.action_noise.share,
            keep_failures=config.keep_failures,
            codec=config.image_codec,
            render_profile=config.render_profile,
            task_parameters=config.task_parameters,
            goal_images=config.goal_images,
            controller=config.controller,
            variant=config.variant,
            record=Recording((), config.depth, config.sensors, config.point_cloud, config.qpos),
            progress=lambda done, wanted, success: bar.show(done),
        )
    tried = f"{found.tried} tried, {found.failed} failed" if found.tried else "nothing was left to do"
    print(f"{found.path}: {found.episodes} episodes, {found.steps} steps ({tried})")
    return 0
