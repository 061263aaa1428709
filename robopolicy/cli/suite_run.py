"""The rollouts of ``robopolicy suite``: what is missing is run, what is finished is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.assess import evaluate
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, explain
from robopolicy.evaluation.files import read_json, write_json
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.suite import SuiteCell
from robopolicy.registry import benchmark_task, registry
from robopolicy.schema import to_dict
from robopolicy.subject import Subject, find_subject

if TYPE_CHECKING:
    from robopolicy.cli.suite import SuiteConfig

__all__ = ["evaluate_suite", "labels", "listed"]

REQUEST = "request.json"
"""Written beside a report once it is finished: what was asked for."""


def listed(names: str | Sequence[Any]) -> list[Any]:
    """One name, or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def labels(policies: Sequence[str]) -> dict[str, str]:
    """Label -> policy as given; the last part of its path, or all of it where that would be ambiguous.

    Raises:
        ConfigError: no policy, or one given twice.
    """
    if not policies or len(set(policies)) != len(policies):
        raise ConfigError(
            explain("policies are needed, each once", given=list(policies), mend="policies=[runs/a,null]")
        )
    short = [Path(policy).name or policy for policy in policies]
    return {(name if short.count(name) == 1 else p): p for name, p in zip(short, policies, strict=True)}


def evaluate_suite(
    config: SuiteConfig, names: Mapping[str, str], base: str, indices: range, *, say: Callable[[str], None]
) -> list[SuiteCell]:
    """Every policy on every task and robot.

    Args:
        config: Keys of the command.
        names: From :func:`labels`.
        base: Label of the policy to compare with.
        indices: Episodes.
        say: Told what is being done.

    Raises:
        ConfigError: an unknown policy, or a base that is not among them.
        UnknownNameError: an unknown task or robot.
    """
    if base not in names:
        raise ConfigError(explain("no such policy to compare with", given=base, allowed=list(names), mend="base=NAME"))
    subjects = {
        name: find_subject(policy, device=config.device, weights=config.weights) for name, policy in names.items()
    }
    for task in listed(config.tasks):
        benchmark_task(task)  # refuses what is not known
    for embodiment in listed(config.embodiments):
        load_embodiment(embodiment)
    cells = []
    for task in listed(config.tasks):
        for embodiment in listed(config.embodiments):
            for name, subject in subjects.items():
                cells.append(_cell(config, name, subject, task, embodiment, indices, say))
    return cells


def _cell(
    config: SuiteConfig,
    name: str,
    subject: Subject,
    task: str,
    embodiment: str,
    indices: range,
    say: Callable[[str], None],
) -> SuiteCell:
    where: dict[str, Any] = {"policy": name, "task": task, "embodiment": embodiment}
    why = _misfit(subject, task, embodiment)
    if why is not None:
        return SuiteCell(**where, left_out=why)
    place = f"reports/{_file_name(name)}/{_file_name(task)}-{_file_name(embodiment)}"
    folder, request = Path(config.out) / place, _request(config, subject, task, embodiment, indices)
    report = None if config.overwrite else _finished(folder, request)
    if report is not None:
        say(f"{name} on {task}, {embodiment}: finished before")
        return SuiteCell(**where, report=report, folder=place)
    say(f"{name} on {task}, {embodiment}: {len(indices)} episodes")
    (folder / REQUEST).unlink(missing_ok=True)
    report = evaluate(
        subject,
        task,
        embodiment=embodiment,
        episodes=indices,
        split=config.split,
        variant=config.variant,
        workers=config.workers,
        inference=config.inference if name != "expert" else "auto",
        inference_batch=config.inference_batch,
        latency_ms=config.latency_ms,
        control=config.control,
        continue_after_success_s=config.continue_after_success_s,
        videos=config.videos,
        film="failures",
        out=folder,
        overwrite=True,
    )
    write_json(folder / REQUEST, request)
    return SuiteCell(**where, report=report, folder=place)


def _misfit(subject: Subject, task: str, embodiment: str) -> str | None:
    """Why a policy cannot play a task with a robot, or None."""
    if subject.task is not None and subject.task != task and not subject.views:
        return f"trained on {subject.task}"
    try:
        own = subject.of(embodiment).embodiment
        if own is not None:
            own.require_same(load_embodiment(embodiment), mine="the policy", theirs="the suite")
    except EmbodimentMismatchError:
        return f"not made for {embodiment}"
    if benchmark_task(task) is None:
        offered = registry("task").config(task).get("embodiments")
        if offered is not None and embodiment not in offered:
            return f"{task} is not offered on {embodiment}"
    else:
        from robopolicy.sim.bench.dispatch import default_embodiment

        if default_embodiment(task) not in (None, embodiment):
            return f"{task} has a robot of its own"
    return None


def _request(config: SuiteConfig, subject: Subject, task: str, embodiment: str, indices: range) -> dict[str, Any]:
    """Everything that decides the results of one report."""
    keys = ("split", "variant", "latency_ms", "continue_after_success_s", "weights", "inference", "inference_batch")
    return {
        "policy": subject.name,
        "checkpoint_hash": subject.checkpoint_hash,
        "task": task,
        "embodiment_hash": load_embodiment(embodiment).hash,
        "episodes": [indices.start, indices.stop],
        **{key: to_dict(getattr(config, key)) for key in keys},
        "control": to_dict(config.control),
    }


def _finished(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return read_report(folder) if read_json(folder / REQUEST, "request") == request else None
    except (FileNotFoundError, DataError):
        return None


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.@-]+", "_", name).strip("._") or "policy"
