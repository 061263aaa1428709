"""The jobs of ``robopolicy sweep``: checked before the first begins, run here or by Ray; a failure stops no other."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.cli.sweep_grid import Job
from robopolicy.cli.sweep_job import JOB, Children, JobSpec, run_job
from robopolicy.errors import ConfigError, MissingDependencyError, RobopolicyError, explain
from robopolicy.evaluation.files import plain, read_json
from robopolicy.schema import to_dict

if TYPE_CHECKING:
    from robopolicy.cli.sweep import SweepConfig

__all__ = ["carry_out", "specs_of"]

Done = Callable[[int, int], None]
"""Told (index of the job, exit code) after each job, in the thread of the caller."""


def specs_of(jobs: Sequence[Job], config: SweepConfig) -> list[JobSpec]:
    """What has to be run, with every job's configuration checked.

    Raises:
        ConfigError: a job that ``robopolicy train`` would refuse, or a folder that holds a job of other settings.
    """
    from robopolicy.cli.train import TrainConfig
    from robopolicy.config import load

    problems: list[str] = []
    specs = []
    contents: dict[str, str] = {}
    threads = _threads(config)
    for job in jobs:
        folder = Path(config.out).absolute() / job.name
        try:
            train = load(TrainConfig, "train", [*job.overrides, "out=unused"])
            if train.data not in contents:
                contents[train.data] = _content_hash(train.data)
            recipe = to_dict(train.recipe)
        except RobopolicyError as error:
            problems += [f"{job.name}: {problem}" for problem in getattr(error, "problems", [str(error)])]
            continue
        asked = plain({"swept": dict(job.swept), "recipe": recipe, "data": contents[train.data]})
        problems += _other_job(folder, asked)
        more = (f"recipe.threads={threads}",) if threads else ()
        words = (*job.overrides, *more, "progress=false")
        specs.append(JobSpec(str(folder), words, _evaluation(config), threads, asked))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return specs


def carry_out(specs: Sequence[JobSpec], config: SweepConfig, done: Done) -> bool:
    """Run all jobs; True unless a signal stopped them, their checkpoints written.

    Raises:
        MissingDependencyError: backend ray without Ray.
    """
    if config.backend == "ray":
        _with_ray(specs, config, done)
        return True
    children = Children()
    with _stopped_by_signals(children), ThreadPoolExecutor(config.workers) as pool:
        running = {pool.submit(run_job, spec, children): number for number, spec in enumerate(specs)}
        for future in as_completed(running):
            done(running[future], future.result())
    return not children.stopping


def _with_ray(specs: Sequence[JobSpec], config: SweepConfig, done: Done) -> None:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            explain("Ray is not installed", mend="pip install ray, or backend=local")
        ) from error
    mine = not ray.is_initialized()
    if mine:
        # a cluster is joined by its own variable; without one, this machine gives as many places as were asked for
        at_home = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": config.workers * max(_threads(config), 1)}
        ray.init(**at_home)
    try:
        remote = ray.remote(num_cpus=max(_threads(config), 1), max_retries=0)(run_job)
        numbers = {remote.remote(spec): number for number, spec in enumerate(specs)}
        left = list(numbers)
        while left:
            ready, left = ray.wait(left, num_returns=1)
            for reference in ready:
                done(numbers[reference], _code_of(ray, reference))
    finally:
        if mine:
            ray.shutdown()


def _code_of(ray: Any, reference: Any) -> int:
    """Exit code of a job; 1 where the machine that had it is gone. Its folder keeps its checkpoints."""
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayError:
        return 1


def _threads(config: SweepConfig) -> int:
    """CPU threads of a job, 0 for what the recipe says."""
    if config.threads is not None:
        return config.threads
    return 0 if config.workers == 1 else max(1, (os.cpu_count() or 1) // config.workers)


def _evaluation(config: SweepConfig) -> tuple[str, ...]:
    asked = config.eval
    if not asked.episodes:
        return ()
    named = {"task": asked.task, "embodiment": asked.embodiment}
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    return (*words, f"episodes={asked.episodes}", f"split={asked.split}", f"workers={asked.workers}")


def _content_hash(data: str) -> str:
    from robopolicy.data.mixture import Mixture
    from robopolicy.data.mixture_config import is_mixture, read_mixture
    from robopolicy.data.store import EpisodeStore

    if is_mixture(data):
        return Mixture.open(read_mixture(data)).content_hash
    with EpisodeStore.open(data) as store:
        return store.content_hash


def _other_job(folder: Path, asked: dict[str, Any]) -> list[str]:
    """A complaint if the folder was made for other settings; threads may differ, only speed depends on them."""
    try:
        there = read_json(folder / JOB, "job")
    except FileNotFoundError:
        if not (folder / "config.yaml").is_file():
            return []
        there = {}

    def compared(job: dict[str, Any]) -> dict[str, Any]:
        return {**job, "recipe": {**job.get("recipe", {}), "threads": None}}

    if compared(there) == compared(asked):
        return []
    parts = [key for key in ("recipe", "data") if compared(there).get(key) != compared(asked).get(key)]
    what = f"{folder} holds a job with other settings"
    return [explain(what, given=f"another {' and '.join(parts)}", mend="choose another out=, or delete that folder")]


@contextlib.contextmanager
def _stopped_by_signals(children: Children) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals can be handled nowhere else
        yield
        return
    before = {s: signal.signal(s, lambda *_: children.stop()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
