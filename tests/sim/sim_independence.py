"""Checks that an episode depends on its index alone, and runners that break this on purpose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robopolicy.evaluation.report import build_report
from robopolicy.evaluation.result import MEASURED_FIELDS, EpisodeResult
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.rollout import rollout
from robopolicy.subject import BaselinePolicy

Plan = Mapping[int, str]
"""Episode -> policy that plays it."""
Runner = Callable[[Plan], dict[int, EpisodeResult]]

TASK, EMBODIMENT, SPLIT = "pick_place", "panda", "test"


def fingerprint(results: Sequence[EpisodeResult], policy: str) -> str:
    """Hash of the report of these results, all but what the clock and the disk decide."""
    header = {"task": TASK, "embodiment": EMBODIMENT, "policy": policy, "split": SPLIT}
    report = build_report(results, header)
    del report["cpu_s"], report["latency"]["inference_ms"]
    for row in report["episodes"]:
        for name in MEASURED_FIELDS:
            del row[name]
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PerEpisode:
    """Picklable factory of a policy that plays each episode as planned."""

    plan: tuple[tuple[int, str], ...]

    def __call__(self, env: Env) -> Any:
        return _Actor(env, dict(self.plan))


class _Actor:
    """Knows the episode by where its objects began, which is all that tells one from another."""

    def __init__(self, env: Env, plan: Plan):
        self.env = env
        self.policies = {name: BaselinePolicy(name)(env) for name in sorted(set(plan.values()))}
        expert = BaselinePolicy("expert")(env)
        self.spec = expert.spec
        self.places = {}
        for index, name in plan.items():
            env.reset(options={"split": SPLIT, "index": index})
            self.places[tuple(env.initial_state.values())] = name

    def act(self, observation, *, rng, prefix=None, goal=None):
        # an episode that nobody planned is played by the expert: wrong runners make such
        name = self.places.get(tuple(self.env.initial_state.values()), "expert")
        policy = self.policies.get(name) or next(iter(self.policies.values()))
        needs = policy.spec.observation_horizon
        seen = replace(
            observation,
            state=observation.state[-needs:],
            time_ns=observation.time_ns[-needs:],
            environment_state=observation.environment_state[-needs:],
        )
        chunk = policy.act(seen, rng=rng)
        return replace(chunk, values=chunk.values[: self.spec.action_horizon + 1], valid=None)


def ours(
    plan: Plan, *, workers: int = 1, order: Sequence[int] | None = None, max_steps: int | None = None
) -> dict[int, EpisodeResult]:
    """The project's rollout."""
    results = rollout(
        PerEpisode(tuple(plan.items())),
        task=TASK,
        embodiment=EMBODIMENT,
        split=SPLIT,
        episodes=list(plan) if order is None else order,
        workers=workers,
        max_steps=max_steps,
    )
    return {result.index: result for result in results}


def autoreset(plan: Plan, environments: int = 2) -> dict[int, EpisodeResult]:
    """Wrong on purpose: environments side by side, each of which starts its next episode by itself when one is over.

    The k-th episode to begin is counted as episode k, and where it begins is the next draw of that environment's own
    generator, as in vectorised environments with autoreset: so it depends on when the others were over.
    """
    draws = [np.random.default_rng(number) for number in range(environments)]
    envs = [Env(TASK, EMBODIMENT, split=SPLIT) for _ in range(environments)]
    busy_until, done = [0] * environments, {}
    for number, name in plan.items():
        at = int(np.argmin(busy_until))
        index = int(draws[at].integers(1000))
        policy = _Actor(envs[at], {index: name})
        result = run_episode(envs[at], policy, split=SPLIT, index=index)
        busy_until[at] += result.length
        done[number] = replace(result, index=number)
    return done


def carried_over(plan: Plan) -> dict[int, EpisodeResult]:
    """Wrong on purpose: the arm begins an episode in the pose that the one before it ended in."""
    env, done = Env(TASK, EMBODIMENT, split=SPLIT), {}
    start = env.start_position.copy()
    for number, name in plan.items():
        policy = _Actor(env, {number: name})
        done[number] = run_episode(env, policy, split=SPLIT, index=number)
        env.start_position = env.robot_state().position.copy()
    env.start_position = start
    return done


def depends_on_others(runner: Runner, watched: Sequence[int], others: Sequence[int]) -> list[int]:
    """Watched episodes whose result changes when the *other* episodes are played by another policy."""
    order = sorted([*watched, *others])
    runs = [runner({i: "expert" if i in watched else other for i in order}) for other in ("null", "expert")]
    return [i for i in watched if runs[0][i].outcome() != runs[1][i].outcome()]
