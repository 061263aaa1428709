"""Evaluate a policy: roll it out in worker processes on unseen episodes, write the report.

The one place where policies, simulation and evaluation meet; ``robopolicy eval``, ``rp.evaluate`` and the trainer's
validation rollouts go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.registry import benchmark_task, registry
from robopolicy.subject import EXPERT, CheckpointPolicy, PolicyObject, Subject, find_subject

if TYPE_CHECKING:
    from robopolicy.control.between import BetweenConfig
    from robopolicy.control.config import ControlConfig
    from robopolicy.embodiment import Embodiment
    from robopolicy.evaluation.result import EpisodeResult
    from robopolicy.evaluation.sequential import StopRule
    from robopolicy.protocols import Policy

__all__ = ["ValidationRollout", "evaluate"]

Latency = float | Mapping[str, Any]


def evaluate(
    policy: str | Path | Policy | Subject | None,
    task: str | None = None,
    *,
    embodiment: str | Embodiment | None = None,
    like: str | None = None,
    episodes: Iterable[int] = range(100),
    split: str = "test",
    variant: str | Sequence[str] = "nominal",
    workers: int = 1,
    inference: str = "auto",
    inference_batch: int = 8,
    latency_ms: Latency | Sequence[float] = 0.0,
    control: ControlConfig | None = None,
    continue_after_success_s: float = 0.0,
    between: BetweenConfig | str | None = None,
    stop: StopRule | None = None,
    videos: int = 0,
    film: str = "first",
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> dict[str, Any]:
    """Roll a policy out on unseen episodes and report.

    Args:
        policy: See :func:`~robopolicy.subject.find_subject`; a policy object stays in this process.
        task: Registry name; by default the task it was trained on.
        embodiment: Name or card; by default the one it was made for. A policy of several has to be told.
        like: Of a policy of several robots: the one that lends its ranges to ``embodiment``, which it was not trained
            for (zero-shot). The report says so.
        episodes: Indices of the split.
        split: ``test``, ``val`` or ``train``.
        variant: Of the simulation; a list is a robustness table over the same episodes.
        workers: Processes; results do not depend on it.
        inference: ``worker``: each worker holds the policy; ``shared``: this process holds it and answers all workers
            in batches; ``auto``: shared on CUDA devices. The two differ in the last bits.
        inference_batch: Rows of every pass of a shared policy.
        latency_ms: From observation to chunk; a list is a sweep over the same episodes.
        control: Settings of the executor.
        continue_after_success_s: How long an episode goes on after its first success.
        between: How one chunk follows another: ``naive``, ``ensemble``, ``rtc``, or a
            :class:`~robopolicy.control.between.BetweenConfig`.
        stop: Ends the evaluation once it decides; the report says after how many episodes.
        videos: How many episodes are filmed (needs ``out``).
        film: ``first``: the first episodes; ``failures``: the first that fail, which are run once more for it.
        out: Folder for report.json and report.html; without it nothing is written.
        overwrite: Replace a report of something else.
        command: Kept in the report.
        progress: Called with each result.

    Returns:
        The content of report.json. Of a sweep, the episodes are those of the lowest latency and the first variant.

    Raises:
        ConfigError: something needed is not known, or settings that exclude each other.
        EmbodimentMismatchError: the policy was made for another embodiment.
        DataError: ``out`` holds a report of something else.
    """
    from robopolicy.evaluation.report import build_report, check_out, write_report
    from robopolicy.evaluation.sweep import latency_sweep, variant_table

    subject = (policy if isinstance(policy, Subject) else find_subject(policy)).of(embodiment, like)
    task = _task_of(subject, task)
    card = _card_of(subject, embodiment, task)
    indices = sorted(set(episodes))
    points, variants = _latencies(latency_ms), _variants(variant)
    _check_choices(film, stop, len(points) + len(variants))
    run = _Rollouts(
        subject=subject,
        task=task,
        card=card,
        split=split,
        workers=workers,
        inference=_inference(subject, inference, workers),
        inference_batch=inference_batch,
        control=control,
        continue_after_success_s=continue_after_success_s,
        between=_between(between),
        progress=progress,
    )
    header = _header(run, indices, points, variants, command)
    if out is not None:
        check_out(out, header, overwrite=overwrite)
    if stop is not None:
        stop.require([(task, card.name, split, index) for index in indices])
    if benchmark_task(task) is not None:
        from robopolicy.sim.bench.dispatch import simulation_versions

        header["extra"]["versions"] = simulation_versions(task)
    folder = Path(out) / "videos" if out is not None and videos else None
    films = (folder, indices[:videos]) if folder is not None and film == "first" else None
    results = run(indices, points[0], variants[0], films=films, until=stop)
    header["extra"]["inference"] = run.told[0] if run.told else "one at a time"
    sweep = {points[0]: results} | {latency: run(indices, latency, variants[0]) for latency in points[1:]}
    table = {variants[0]: results} | {name: run(indices, points[0], name) for name in variants[1:]}
    more: dict[str, Any] = {"variants": variant_table(table) if len(table) > 1 else None}
    if stop is not None:
        header["episodes"] = [result.index for result in results]
        used = {"used": len(results), "planned": len(indices), "against": stop.source}
        more["sequential"] = {**stop.state(results), **used}
    if folder is not None and film == "failures":
        results, more["films"] = run.film_failures(results, videos, folder, points[0], variants[0])
    curve = latency_sweep(sweep) if len(sweep) > 1 else None
    if out is None:
        return build_report(results, header, sweep=curve, more=more)
    return write_report(out, results, header, sweep=curve, more=more, overwrite=overwrite)


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


@dataclass(frozen=True, kw_only=True)
class _Rollouts:
    """What all rollouts of one evaluation share; calling it runs episodes at one latency in one variant."""

    subject: Subject
    task: str
    card: Embodiment
    split: str
    workers: int
    inference: str
    inference_batch: int
    control: ControlConfig | None
    continue_after_success_s: float
    progress: Callable[[EpisodeResult], None] | None
    between: BetweenConfig | None = None
    told: list[str] = field(default_factory=list)

    def __call__(
        self,
        indices: Iterable[int],
        latency: Latency,
        variant: str,
        *,
        films: tuple[Path, list[int]] | None = None,
        until: Callable[[Sequence[EpisodeResult]], bool] | None = None,
    ) -> list[EpisodeResult]:
        from robopolicy.sim.rollout import rollout

        return rollout(
            self.subject.factory,
            task=self.task,
            embodiment=self.card,
            split=self.split,
            episodes=indices,
            workers=self.workers,
            inference=self.inference,
            inference_batch=self.inference_batch,
            variant=variant,
            latency=latency,
            control=self.control,
            continue_after_success_s=self.continue_after_success_s,
            between=self.between,
            video_dir=films[0] if films else None,
            videos=films[1] if films else (),
            progress=self.progress,
            until=until,
            served=self.told.append,
        )

    def film_failures(
        self, results: list[EpisodeResult], count: int, folder: Path, latency: Latency, variant: str
    ) -> tuple[list[EpisodeResult], dict[str, Any]]:
        """Run the first failures again with a camera; an episode is a function of its index, and that is checked.

        Returns:
            The results with the places of the films, and which episodes were filmed and which ended otherwise.
        """
        chosen = [result.index for result in results if not result.success_at_end and not result.lost][:count]
        again = replace(self, progress=None)(chosen, latency, variant, films=(folder, chosen)) if chosen else []
        filmed = {result.index: result for result in again}
        first = {result.index: result for result in results}
        differing = [index for index in chosen if filmed[index].outcome() != first[index].outcome()]
        shown = [replace(r, video=filmed[r.index].video) if r.index in filmed else r for r in results]
        return shown, {"of": "failures", "episodes": chosen, "differing": differing}


def _inference(subject: Subject, wanted: str, workers: int) -> str:
    """How the policy is run: ``worker``, ``shared`` or ``here``."""
    if wanted not in ("auto", "worker", "shared"):
        raise ConfigError(explain("unknown kind of inference", given=wanted, allowed=("auto", "worker", "shared")))
    factory = subject.factory
    if isinstance(factory, PolicyObject):
        if wanted == "worker":
            raise ConfigError(explain("a policy object cannot be sent to workers", mend="inference=shared"))
        return "shared" if wanted == "shared" else "here"
    if wanted == "shared" and subject.name == EXPERT:
        what = "an expert sees the simulation that it is in, so it cannot be shared"
        raise ConfigError(explain(what, mend="inference=worker"))
    if wanted == "auto":
        return "shared" if isinstance(factory, CheckpointPolicy) and factory.on_gpu() else "worker"
    return wanted


def _check_choices(film: str, stop: StopRule | None, points: int) -> None:
    if film not in ("first", "failures"):
        raise ConfigError(explain("unknown choice of films", given=film, allowed=("first", "failures")))
    if stop is not None and points > 2:
        mend = "give one latency and one variant, or leave stop out"
        raise ConfigError(explain("a sweep cannot be stopped by a sequential test", mend=mend))


def _variants(variant: str | Sequence[str]) -> list[str]:
    names = [variant] if isinstance(variant, str) else list(variant)
    if not names or len(set(names)) != len(names):
        mend = "give different names, for example variant=[nominal,shifted,heavy]"
        raise ConfigError(explain("at least one variant is needed, each once", given=names, mend=mend))
    return names


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
            from robopolicy.sim.registration import offered_embodiments

            names = offered_embodiments(task)
            what = f"'{subject.name}' fits any embodiment, so one has to be named"
            raise ConfigError(explain(what, allowed=names, mend="give embodiment=NAME"))
        return subject.embodiment
    card = load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
    if subject.embodiment is not None:
        subject.embodiment.require_same(card, mine=f"the policy {subject.checkpoint or subject.name}", theirs="eval")
    return card


def _between(between: BetweenConfig | str | None) -> BetweenConfig:
    from robopolicy.control.between import BetweenConfig
    from robopolicy.schema import build

    if isinstance(between, BetweenConfig):
        return between
    return build(BetweenConfig, {"kind": between or "naive"}, "between")


def _latencies(latency_ms: Latency | Sequence[float]) -> list[Any]:
    points = sorted(latency_ms) if isinstance(latency_ms, (list, tuple)) else [latency_ms]
    if not points or len(set(map(str, points))) != len(points):
        mend = "give different latencies, for example latency_ms=[0,50,100]"
        raise ConfigError(explain("a sweep needs at least one latency, each once", given=list(points), mend=mend))
    return points


def _header(
    run: _Rollouts, indices: list[int], points: list[Any], variants: list[str], command: str | None
) -> dict[str, Any]:
    from robopolicy.control.config import ControlConfig
    from robopolicy.schema import to_dict

    subject = run.subject
    control = {**to_dict(run.control or ControlConfig()), "latency_ms": points[0]}
    control["between"] = to_dict(_between(run.between))
    if run.continue_after_success_s:
        control["continue_after_success_s"] = run.continue_after_success_s
    return {
        "task": run.task,
        "embodiment": run.card.name,
        "policy": subject.name,
        "split": run.split,
        "variant": variants[0],
        "embodiment_hash": run.card.hash,
        "checkpoint": subject.checkpoint,
        "checkpoint_hash": subject.checkpoint_hash,
        "episodes": indices,
        "command": command,
        "seeds": dict(subject.seeds),
        "control": control,
        "extra": {
            "weights": getattr(subject.factory, "weights", None),
            "checkpoint_choice": subject.choice,
            **({"like": like} if (like := getattr(subject.factory, "like", None)) else {}),
            **({"overrides": dict(changed)} if (changed := getattr(subject.factory, "overrides", None)) else {}),
        },
    }
