"""Where a task's name decides: a world of this project, or a benchmark of others behind a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.registry import benchmark_task
from robopolicy.sim.bench.benchmark import benchmark_of

__all__ = ["default_embodiment", "default_render_profile", "simulate", "simulation_versions"]


def simulate(
    task: str,
    embodiment: str | Embodiment,
    *,
    render_profile: str | None = None,
    variant: str = "nominal",
    **settings: Any,
) -> tuple[Any, Callable[..., EpisodeResult]]:
    """The environment of a task, and the function that runs an episode of a policy in it.

    Args:
        task: ``pick_place``, or ``metaworld/reach-v3``.
        embodiment: Registry name or card.
        render_profile: ``fast`` or ``stock``; None for :func:`default_render_profile`.
        variant: Of the simulation; benchmarks only come as they are.
        **settings: Further keyword arguments of :class:`~robopolicy.sim.env.Env`; a benchmark has no use for them.

    Returns:
        :class:`~robopolicy.sim.env.Env` and :func:`~robopolicy.sim.episode.run_episode`, or their counterparts here.

    Raises:
        ConfigError: a variant of a benchmark.
    """
    if benchmark_task(task) is None:
        from robopolicy.sim.env import Env
        from robopolicy.sim.episode import run_episode

        more: dict[str, Any] = settings if variant == "nominal" else {**settings, "variant": variant}
        return Env(task, embodiment, render_profile=render_profile or "fast", **more), run_episode
    if variant != "nominal":
        raise ConfigError(explain("a benchmark has no variants", given=variant, allowed="nominal"))
    from robopolicy.sim.bench.env import BenchEnv
    from robopolicy.sim.bench.episode import run_bench_episode

    return BenchEnv(task, embodiment, render_profile=render_profile), run_bench_episode


def default_embodiment(task: str) -> str | None:
    """Name of the card of a benchmark's robot; None where the user has to choose one."""
    found = benchmark_of(task)
    return None if found is None else found[0].embodiment


def default_render_profile(task: str) -> str:
    """``fast`` for tasks of this project, the benchmark's own setting (mostly ``stock``) for others."""
    found = benchmark_of(task)
    return "fast" if found is None else found[0].render_profile


def simulation_versions(task: str) -> dict[str, str]:
    """What a report has to say besides this project's own versions; starts a benchmark's process once to ask it.

    Raises:
        ConfigError: the benchmark has no such task.
        MissingDependencyError: the benchmark's environment has not been made.
        SimulationError: its process does not come up.
    """
    found = benchmark_of(task)
    if found is None:
        return {}
    from robopolicy.sim.bench.process import BenchmarkProcess

    process = BenchmarkProcess(found[0])
    try:
        versions = process.start()
        process.require(found[1])
    finally:
        process.close()
    name = found[0].name
    return {**{f"{name}: {key}": value for key, value in versions.items()}, f"{name}: render": found[0].render_profile}
