"""Policies around an expert, for tests of tasks and for the claim about them; importable by spawned workers."""

import dataclasses

import numpy as np

from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk


class Changed:
    """An expert whose chunks are changed by ``change(values [H, A], embodiment) -> values``."""

    def __init__(self, expert, change):
        self.expert, self.change, self.spec = expert, change, expert.spec

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        chunk = self.expert.act(observation, rng=rng, prefix=prefix, goal=goal)
        return dataclasses.replace(chunk, values=self.change(np.array(chunk.values), self.spec.embodiment))


def jaw_open(values, embodiment):
    """Every gripper channel at 1."""
    for arm in embodiment.arms:
        values[:, embodiment.action.index(arm.gripper)] = 1.0
    return values


def time_when_left(env, joint, position, seconds=0.7):
    """Time (s) at which the task is done with a joint left at a position and the robot at rest, or None."""
    env.reset(options={"index": 0})
    env.data.joint(joint).qpos[0] = position
    for _ in range(round(seconds * env.embodiment.setpoint_hz)):
        env.servo(env.embodiment.home_position)
        if env.success():
            return env.now_ns / 1e9
    return None


class Held:
    """An expert for a time, and from then on its last action again and again."""

    def __init__(self, expert, after_s):
        self.expert, self.after_ns, self.spec, self.action = expert, round(after_s * 1e9), expert.spec, None

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns = int(observation.time_ns[-1])
        if now_ns < self.after_ns or self.action is None:
            chunk = self.expert.act(observation, rng=rng, prefix=prefix, goal=goal)
            self.action = chunk.values[:1]
            return chunk
        return ActionChunk(self.action, now_ns, self.spec.embodiment.control_dt_s, self.spec.embodiment.hash, horizon=1)


class Chunks:
    """Recorder of what an expert answered: one chunk per control step."""

    def __init__(self):
        self.chunks = []

    def cameras(self, step):
        return ()

    def step(self, frame, chunk, joint_command):
        self.chunks.append(chunk)


class ChunksAgain:
    """Recorded chunks, one per control step, whatever is observed: the same setpoints as before."""

    def __init__(self, embodiment, chunks):
        self.chunks, self.card = chunks, embodiment
        self.spec = PolicySpec(self.card, 1, 1, len(chunks[0].values))

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns = int(observation.time_ns[-1])
        step = round(now_ns * self.card.control_hz / 1e9)
        return dataclasses.replace(self.chunks[min(step, len(self.chunks) - 1)], t0_ns=now_ns)


class ActionsAgain(ChunksAgain):
    """Only their first rows, as a store keeps them, each with the next one as a look ahead."""

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns, last = int(observation.time_ns[-1]), len(self.chunks) - 1
        step = min(round(now_ns * self.card.control_hz / 1e9), last)
        rows = [np.asarray(self.chunks[k].values[0], np.float32) for k in (step, min(step + 1, last))]
        return ActionChunk(np.array(rows, float), now_ns, self.card.control_dt_s, self.card.hash, horizon=1)
