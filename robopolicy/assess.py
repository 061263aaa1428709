"""Evaluate a policy: roll it out in worker processes on unseen episodes, write the report.

The one place where policies, simulation and evaluation meet; ``robopolicy eval``, ``rp.evaluate`` and the trainer's
validation rollouts go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.registry import benchmark_task, registry
from robopolicy.subject import PolicyObject, Subject, find_subject

if TYPE_CHECKING:
    from robopolicy.control.config import ControlConfig
    from robopolicy.embodiment import Embodiment
    from robopolicy.evaluation.result import EpisodeResult
    from robopolicy.protocols import Policy

__all__ = ["ValidationRollout", "evaluate"]

Latency = float | Mapping[str, Any]


def evaluate(
    policy: str | Path | Policy | Subject | None,
    task: str | None = None,
    *,
    embodiment: str | Embodiment | None = None,
    episodes: Iterable[int] = range(100),
    split: str = "test",
    workers: int = 1,
    latency_ms: Latency | Sequence[float] = 0.0,
    control: ControlConfig | None = None,
    videos: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> dict[str, Any]:
    """Roll a policy out on unseen episodes and report.

    Args:
        policy: See :func:`~robopolicy.subject.find_subject`; a policy object runs in this process, without workers.
        task: Registry name; by default the task it was trained on.
        embodiment: Name or card; by default the one it was made for. A policy of several has to be told.
        episodes: Indices of the split.
        split: ``test``, ``val`` or ``train``.
        workers: Processes; results do not depend on it.
        latency_ms: From observation to chunk; a list is a sweep over the same episodes.
        control: Settings of the executor.
        videos: How many of the first episodes are filmed (needs ``out``).
        out: Folder for report.json and report.html; without it nothing is written.
        overwrite: Replace a report of something else.
        command: Kept in the report.
        progress: Called with each result.

    Returns:
        The content of report.json. Of a sweep, the episodes are those of the lowest latency.

    Raises:
        ConfigError: something needed is not known, or an empty sweep.
        EmbodimentMismatchError: the policy was made for another embodiment.
        DataError: ``out`` holds a report of something else.
    """
    from robopolicy.evaluation.report import build_report, check_out, write_report
    from robopolicy.evaluation.sweep import latency_sweep

    subject = (policy if isinstance(policy, Subject) else find_subject(policy)).of(embodiment)
    task = _task_of(subject, task)
    card = _card_of(subject, embodiment, task)
    indices = sorted(set(episodes))
    points = _latencies(latency_ms)
    header = _header(subject, task, card, split, indices, points, control, command)
    if out is not None:
        check_out(out, header, overwrite=overwrite)
    if benchmark_task(task) is not None:
        from robopolicy.sim.bench.dispatch import simulation_versions

        header["extra"]["versions"] = simulation_versions(task)
    runs: dict[Any, list[EpisodeResult]] = {}
    for number, latency in enumerate(points):
        runs[number] = _run(
            subject,
            task,
            card,
            indices,
            split=split,
            workers=workers,
            latency=latency,
            control=control,
            films=(Path(out) / "videos", indices[:videos]) if out is not None and videos and not number else None,
            progress=progress,
        )
    sweep = latency_sweep({points[n]: results for n, results in runs.items()}) if len(points) > 1 else None
    if out is None:
        return build_report(runs[0], header, sweep=sweep)
    return write_report(out, runs[0], header, sweep=sweep, overwrite=overwrite)


@dataclass
class ValidationRollout:
    """A few episodes of the split ``val`` with the policy as it is in the middle of training.

    Attributes:
        task: Registry name.
        episodes: How many.
    """

    task: str
    episodes: int = 20
    _envs: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, policy: Policy, step: int) -> dict[str, float]:
        """Success rate and mean length; the same episodes every time.

        Of a policy of several robots: for each that the data have for this task, ``rollout_success/<embodiment>``.
        """
        bind = getattr(policy, "bind", None)
        if bind is None:
            return self._of(policy)
        found: dict[str, float] = {}
        for view in getattr(policy, "views", ()):
            if view.task == self.task:
                own = self._of(bind(view.embodiment))
                found |= {f"{key}/{view.embodiment.name}": value for key, value in own.items()}
        return found

    def _of(self, policy: Policy) -> dict[str, float]:
        import torch

        from robopolicy.sim.bench.dispatch import simulate

        card = policy.spec.embodiment
        if card.hash not in self._envs:
            self._envs[card.hash] = simulate(self.task, card, split="val")
        env, run_episode = self._envs[card.hash]
        # One observation at a time is too little work to share: further threads would only wait for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            results = [run_episode(env, policy, split="val", index=i) for i in range(self.episodes)]
        finally:
            torch.set_num_threads(threads)
        results = [r for r in results if not r.lost]
        if not results:
            raise SimulationError(explain("every validation episode was lost", given=self.task))
        succeeded = sum(r.success_at_end for r in results)
        length = sum(r.length for r in results)
        return {"rollout_success": succeeded / len(results), "rollout_length": length / len(results)}


def _run(
    subject: Subject,
    task: str,
    card: Embodiment,
    indices: list[int],
    *,
    split: str,
    workers: int,
    latency: Latency,
    control: ControlConfig | None,
    films: tuple[Path, list[int]] | None,
    progress: Callable[[EpisodeResult], None] | None,
) -> list[EpisodeResult]:
    from robopolicy.control.latency import LatencyModel
    from robopolicy.sim.rollout import rollout

    if not isinstance(subject.factory, PolicyObject):
        return rollout(
            subject.factory,
            task=task,
            embodiment=card,
            split=split,
            episodes=indices,
            workers=workers,
            latency=latency,
            control=control,
            video_dir=films[0] if films else None,
            videos=films[1] if films else (),
            progress=progress,
        )
    from robopolicy.sim.bench.dispatch import simulate

    env, run_episode = simulate(task, card, split=split, control=control)
    model = LatencyModel.from_config(latency)
    policy, results = subject.factory(env), []
    for index in indices:
        results.append(run_episode(env, policy, split=split, index=index, control_latency=model))
        if progress is not None:
            progress(results[-1])
    env.close()
    return results


def _task_of(subject: Subject, task: str | None) -> str:
    chosen = task or subject.task
    if chosen is None:
        names = registry("task").names()
        raise ConfigError(
            explain(f"'{subject.name}' does not say for which task", allowed=names, mend="give task=NAME")
        )
    benchmark_task(chosen)  # refuses what is not known
    return chosen


def _card_of(subject: Subject, embodiment: str | Embodiment | None, task: str) -> Embodiment:
    from robopolicy.embodiment import load_embodiment

    if embodiment is None and subject.embodiment is None and benchmark_task(task) is not None:
        from robopolicy.sim.bench.dispatch import default_embodiment

        embodiment = default_embodiment(task)
    if embodiment is None:
        if subject.embodiment is None:
            names = registry("embodiment").names()
            what = f"'{subject.name}' fits any embodiment, so one has to be named"
            raise ConfigError(explain(what, allowed=names, mend="give embodiment=NAME"))
        return subject.embodiment
    card = load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
    if subject.embodiment is not None:
        subject.embodiment.require_same(card, mine=f"the policy {subject.checkpoint or subject.name}", theirs="eval")
    return card


def _latencies(latency_ms: Latency | Sequence[float]) -> list[Any]:
    points = sorted(latency_ms) if isinstance(latency_ms, (list, tuple)) else [latency_ms]
    if not points or len(set(map(str, points))) != len(points):
        mend = "give different latencies, for example latency_ms=[0,50,100]"
        raise ConfigError(explain("a sweep needs at least one latency, each once", given=list(points), mend=mend))
    return points


def _header(
    subject: Subject,
    task: str,
    card: Embodiment,
    split: str,
    indices: list[int],
    points: list[Any],
    control: ControlConfig | None,
    command: str | None,
) -> dict[str, Any]:
    from robopolicy.control.config import ControlConfig
    from robopolicy.schema import to_dict

    return {
        "task": task,
        "embodiment": card.name,
        "policy": subject.name,
        "split": split,
        "embodiment_hash": card.hash,
        "checkpoint": subject.checkpoint,
        "checkpoint_hash": subject.checkpoint_hash,
        "episodes": indices,
        "command": command,
        "seeds": dict(subject.seeds),
        "control": {**to_dict(control or ControlConfig()), "latency_ms": points[0]},
        "extra": {"weights": getattr(subject.factory, "weights", None)},
    }
