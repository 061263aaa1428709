"""A point in the plane that goes around a disc, to the left or to the right: the toy world of claims about policies.

::

    y =  1      goal            pushed, paused, bimodal: everything that a claim needs can be switched on, and an
                 |              episode costs microseconds. Commands are positions, control is at 10 Hz, the point
    y =  0   (   O   )          follows a command at a bounded speed. numpy only; training imports torch.
                 |
    y = -1     start

Demonstrations throw a coin at the start, so the same first observation is followed by two ways. A third of them begin
anywhere instead, so that there are examples of how to go on after a push; those throw it near the middle. A pause is a
stay of random length before the first step and after the disc: nothing in the observation tells how long it has taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.embodiment import Embodiment
from robopolicy.seeding import generator
from robopolicy.types import ActionChunk, Observation

__all__ = ["Outcome", "card", "demonstrate", "make_store", "recipe", "run", "train"]

RADIUS_M, PASS_M = 0.25, 0.5
"""Of the disc in the middle, and how far from its centre demonstrations pass it."""
SPEED_M, MOST_M = 0.1, 0.15
"""Length of a step of a demonstration, and the longest step that the point can make."""
GOAL_M = 0.1
"""Within it of (0, 1) the goal is reached."""
STAY = 6
"""Steps that a demonstration stays at the goal."""
ANYWHERE = 0.34
"""Share of the demonstrations that begin anywhere instead of at the start."""
LIMIT = 60
"""Steps of an episode at most."""
Array = NDArray[np.float64]


def card() -> Embodiment:
    """Of the point."""
    channels = [{"name": f"point.{axis}", "unit": "m", "lower": -1.5, "upper": 1.5} for axis in "xy"]
    return Embodiment.from_dict(
        {
            "name": "point_world",
            "description": "Point in the plane, target position",
            "action_space": "custom",
            "state_space": "custom",
            "action_reference": "absolute",
            "control_hz": 10,
            "setpoint_hz": 10,
            "joints": [],
            "arms": [],
            "home": {},
            "custom_state": channels,
            "custom_action": channels,
            "cameras": [],
        }
    )


@dataclass(frozen=True)
class Outcome:
    """How an episode went.

    Attributes:
        success: The goal was reached in time and the disc never touched.
        collided: The disc was touched; the episode ends there.
        side: ``left`` (x < 0) or ``right`` where the point passed the middle, ``none`` if it never did.
        steps: Until the end.
        path: f64 [steps + 1, 2] positions, in m.
        jump_m: Largest distance between the first command of a new chunk and what the chunk before it meant for that
            step; 0 where nothing was left of any.
    """

    success: bool
    collided: bool
    side: str
    steps: int
    path: Array
    jump_m: float


def start(rng: np.random.Generator) -> Array:
    """[2] near (0, -1)."""
    return np.array([0.0, -1.0]) + rng.uniform(-0.03, 0.03, 2)


def way(position: Array, side: float) -> Array:
    """[2] where the demonstrator wants the point to be after this step; ``side`` is -1 (left) or 1."""
    x, y = position
    gap = 1.0 - y
    if np.hypot(x, gap) <= SPEED_M:
        return np.array([0.0, 1.0])

    def line(at: float) -> float:
        return side * PASS_M * np.cos(np.clip(at, -1, 1) * np.pi / 2) ** 0.7

    forward = SPEED_M if gap > 0 else -SPEED_M
    to_line = np.array([line(y + forward) - x, forward])
    return position + to_line * min(SPEED_M / np.linalg.norm(to_line), 1.0)


def demonstrate(
    rng: np.random.Generator, pauses: tuple[int, int] = (0, 0), undecided_m: float = 0.05
) -> tuple[Array, Array]:
    """One demonstration.

    Args:
        rng: Decides everything.
        pauses: Shortest and longest stay, in steps, before the first step and after the disc.
        undecided_m: Who begins below the disc and not farther from the middle line throws the coin; others go round
            on their own side.

    Returns:
        States and commands, both f64 [n, 2], in m.
    """
    side = -1.0 if rng.random() < 0.5 else 1.0
    position = start(rng)
    if rng.random() < ANYWHERE:
        position = rng.uniform((-0.8, -1.0), (0.8, 0.9))
        while np.hypot(*position) < RADIUS_M + 0.1:
            position = rng.uniform((-0.8, -1.0), (0.8, 0.9))
        if abs(position[0]) > undecided_m or position[1] > 0:
            side = float(np.sign(position[0]) or 1.0)
    waits = [int(rng.integers(pauses[0], pauses[1] + 1)) for _ in range(2)]
    states, commands = [], []
    left, passed = waits[0], position[1] >= PASS_M
    stay = STAY
    while stay:
        if not passed and position[1] >= PASS_M:
            left, passed = waits[1], True
        command = position if left > 0 else way(position, side)
        left -= 1
        stay -= bool(np.hypot(*(position - (0.0, 1.0))) < 1e-6)
        states.append(position)
        commands.append(command)
        position = follow(position, command)
    return np.array(states), np.array(commands)


def follow(position: Array, command: Array) -> Array:
    """Position after a step towards a command."""
    move = command - position
    length = float(np.linalg.norm(move))
    return position + move * (min(length, MOST_M) / length if length > 0 else 0.0)


def make_store(
    path: str | Path, episodes: int, seed: int, pauses: tuple[int, int] = (0, 0), undecided_m: float = 0.05
) -> EpisodeStore:
    """A store of demonstrations; of the same seed the same, and none of them is an episode of :func:`run`.

    Args:
        path: A folder that does not exist yet.
        episodes: How many.
        seed: Of all of them.
        pauses, undecided_m: See :func:`demonstrate`.

    Returns:
        The store, open for reading.
    """
    with EpisodeStore.create(path, card(), task="point_world", joints=False) as store:
        rows = []
        for index in range(episodes):
            states, commands = demonstrate(generator("point_world", "train", seed, index), pauses, undecided_m)
            time_ns = np.arange(len(states), dtype=np.int64) * 100_000_000 + 100_000_000
            rows.append(Episode({"state": states, "action": commands, "time_ns": time_ns}, success=True))
        store.append_many(rows)
    return EpisodeStore.open(path)


class _Episode:
    """One episode while it runs."""

    def __init__(self, seed: int, index: int, rows: int, disturbance: float):
        self.rng, self.pushes = generator("point_world", "test", seed, index), generator("push", seed, index)
        self.history = [start(self.rng)] * rows
        self.rows, self.disturbance = rows, disturbance
        self.push_at = sorted(self.pushes.choice(np.arange(5, 17), 1, replace=False)) if disturbance else []
        self.plan: ActionChunk | None = None
        self.used, self.step, self.jump_m = 0, 0, 0.0
        self.collided = self.done = False

    def observation(self, hash_: str) -> Observation:
        time_ns = (np.arange(self.step - self.rows + 1, self.step + 1) + self.rows) * 100_000_000
        state = np.stack(self.history[-self.rows :]).astype(np.float32)
        return Observation(state=state, time_ns=time_ns.astype(np.int64), embodiment=hash_)

    def take(self, chunk: ActionChunk) -> None:
        """Follow another chunk from now on."""
        if self.plan is not None and self.used < len(self.plan.values):
            self.jump_m = max(self.jump_m, float(np.linalg.norm(chunk.values[0] - self.plan.values[self.used])))
        self.plan, self.used = chunk, 0

    def advance(self) -> None:
        """One control step."""
        assert self.plan is not None
        position = follow(self.history[-1], np.asarray(self.plan.values[self.used], float))
        self.used += 1
        self.step += 1
        self.collided = _touches(self.history[-1], position)
        if self.step in self.push_at and not self.collided:
            position = self._pushed(position)
        self.history.append(position)
        self.done = self.collided or self.reached() or self.step >= LIMIT

    def reached(self) -> bool:
        return bool(np.hypot(*(self.history[-1] - (0.0, 1.0))) <= GOAL_M)

    def _pushed(self, position: Array) -> Array:
        """Moved across the middle line, more or less sideways, and never onto the disc."""
        across = -1.0 if position[0] > 0 else 1.0
        for _ in range(32):
            angle = self.pushes.uniform(-0.5, 0.5)
            moved = position + self.disturbance * np.array([across * np.cos(angle), np.sin(angle)])
            if np.hypot(*moved) > RADIUS_M + 0.05 and np.abs(moved).max() < 1.2:
                return moved
        return position

    def outcome(self) -> Outcome:
        path = np.stack(self.history[self.rows - 1 :])
        passed = np.flatnonzero(path[:, 1] >= 0)
        side = "none" if not len(passed) else ("left" if path[passed[0], 0] < 0 else "right")
        won = self.reached() and not self.collided
        return Outcome(won, self.collided, side, self.step, path, self.jump_m)


def run(
    policy: Any,
    episodes: int,
    seed: int,
    action_horizon: int | None = None,
    disturbance: float = 0.0,
    prefix: bool = False,
) -> list[Outcome]:
    """Episodes that no demonstration shows, all at once; each is a function of (seed, its number) and the policy.

    Args:
        policy: A :class:`~robopolicy.protocols.Policy`; one with ``act_batch`` is asked for all episodes together.
        episodes: How many.
        seed: Of starts, pushes and of the policy's randomness.
        action_horizon: Values of a chunk that are executed; None takes the policy's Ta.
        disturbance: Length of a push across the middle line at one of the steps 5 to 16, in m; 0 for none. At 1.1 the
            point lands beyond the disc, and a command from before the push drags it back through it.
        prefix: Hand over what is still scheduled of the chunk before.
    """
    spec = policy.spec
    ahead = spec.action_horizon if action_horizon is None else action_horizon
    running = [_Episode(seed, i, spec.observation_horizon, disturbance) for i in range(episodes)]
    while True:
        alive = [e for e in running if not e.done]
        if not alive:
            break
        due = [e for e in alive if e.plan is None or e.used >= min(ahead, len(e.plan.values))]
        for episode, chunk in zip(due, _ask(policy, due, prefix) if due else (), strict=True):
            episode.take(chunk)
        for episode in alive:
            episode.advance()
    return [episode.outcome() for episode in running]


def recipe(policy: str, parameters: Mapping[str, Any], steps: int, seed: int = 0) -> dict[str, Any]:
    """A recipe of one stage of this size: To 2, Ta 8, Tp 16, small U-Net, one thread.

    Args:
        policy: Registry name.
        parameters: Laid over these sizes.
        steps: Optimiser steps of 64 samples.
        seed: Of the run.
    """
    sizes = {
        "observation_horizon": 2,
        "action_horizon": 8,
        "prediction_horizon": 16,
        "environment_state": False,
        "unet": {"down": [32, 64], "step_dim": 32},
    }
    stage = {
        "policy": policy,
        "steps": steps,
        "batch_size": 64,
        "checkpoint_every": max(steps, 1),
        "parameters": {**sizes, **parameters},
        "optimizer": {"lr": 2.0e-3, "warmup_steps": min(100, steps), "clip_norm": 1.0},
        "validation": {"every": 0, "fraction": 0.0},
    }
    return {"seed": seed, "device": "cpu", "threads": 1, "log_every": 100, "stages": {"policy": stage}}


def train(recipe: Mapping[str, Any], store: str | Path, out: str | Path) -> Any:
    """The policy with averaged weights, trained through the ordinary trainer; what is finished in ``out`` is loaded."""
    from robopolicy.policies import load_policy
    from robopolicy.training.run import resume
    from robopolicy.training.run import train as train_run

    out = Path(out)
    if not (out / "train.json").is_file():
        if any((out / "checkpoints").glob("*/step_*/manifest.json")):
            resume(out, data=store, progress=False)
        else:
            train_run(recipe, store, out, progress=False)
    return load_policy(out, device="cpu")


def _ask(policy: Any, alive: Sequence[_Episode], prefix: bool) -> list[ActionChunk]:
    observations = [e.observation(policy.spec.embodiment.hash) for e in alive]
    plans = [None if e.plan is None or not prefix else e.plan for e in alive]
    rngs = [e.rng for e in alive]
    if hasattr(policy, "act_batch"):
        return policy.act_batch(observations, rngs, plans) if prefix else policy.act_batch(observations, rngs)
    return [policy.act(o, rng=r, prefix=p) for o, r, p in zip(observations, rngs, plans, strict=True)]


def _touches(before: Array, after: Array) -> bool:
    """Whether the segment between two positions touches the disc."""
    move = after - before
    square = float(move @ move)
    share = np.clip(-(before @ move) / square, 0, 1) if square > 0 else 0.0
    return bool(np.hypot(*(before + share * move)) < RADIUS_M)
