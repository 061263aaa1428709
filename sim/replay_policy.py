"""A recorded episode, and the policy that says its actions again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.controllers.base import Controller, JointTargets, Reference, find_controller
from robopolicy.sim.env import Env
from robopolicy.sim.record import unpack_chunk
from robopolicy.types import ActionChunk, Observation

__all__ = ["RecordedEpisode", "ReplayPolicy", "label_of_row", "read_episode", "seen_by", "targets_of"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode of a store.

    Attributes:
        split, index: Which episode of the simulation it is.
        chunks: Per row the values [H, A] that were executed, or the label where nothing else is stored.
        action: [N, A] labels.
        state, environment_state, joint_command: [N, ...] as stored.
        qpos: [N, nq], without columns where it was not recorded.
        time_ns: [N].
        success: As recorded.
        language: Instruction.
        metadata: As recorded.
    """

    split: str
    index: int
    chunks: tuple[Array, ...]
    action: Array
    state: Array
    environment_state: Array
    joint_command: Array
    qpos: Array
    time_ns: NDArray[np.int64]
    success: bool
    language: str
    metadata: dict[str, Any]

    @property
    def length(self) -> int:
        """N, rows."""
        return len(self.time_ns)


def read_episode(store: EpisodeStore, number: int) -> RecordedEpisode:
    """Episode ``number`` of a store that was collected here."""
    streams, info = store.streams, store.info(number)
    start, stop = int(info["start"]), int(info["stop"])

    def rows(name: str) -> Array:
        return np.asarray(store.read(name, start, stop)) if name in streams else np.zeros((stop - start, 0), np.float32)

    action = rows("action")
    if "executed_chunk" in streams:
        chunks = tuple(
            unpack_chunk(row, action.shape[1]) for row in np.asarray(store.read("executed_chunk", start, stop))
        )
    else:
        executed = rows("executed_action") if "executed_action" in streams else action
        chunks = tuple(row[None].astype(float) for row in executed)
    metadata = dict(info["metadata"])
    return RecordedEpisode(
        split=metadata["split"],
        index=int(metadata["index"]),
        chunks=chunks,
        action=action,
        state=rows("state"),
        environment_state=rows("environment_state"),
        joint_command=rows("joint_command"),
        qpos=rows("qpos"),
        time_ns=np.asarray(store.read("time_ns", start, stop)),
        success=bool(info["success"]),
        language=info["language"],
        metadata=metadata,
    )


class ReplayPolicy:
    """Answers the k-th request with the label of row k; :meth:`instead` is what was executed in its place.

    After the last row it stays where it was told to be. Into the same action space values go as they are. Into another
    one they become targets of the robot's own card first, counted from what is commanded now, and are translated there.

    Args:
        env: Environment of the new store.
        recorded: Source.
        card: Of the source store.
    """

    def __init__(self, env: Env, recorded: RecordedEpisode, card: Embodiment):
        self._env, self._recorded, self._card = env, recorded, card
        self._same = card.hash == env.card.hash
        self._source = None if self._same else find_controller(card, None)[1]
        self._spec = PolicySpec(env.card if self._same else env.embodiment, 1, 1, 1, state=False)

    @property
    def spec(self) -> PolicySpec:
        """One observation in, one recorded label out."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The label of the row at the observation's time, [1, A]."""
        now_ns = int(observation.time_ns[-1])
        row = self._row(now_ns)
        return self._chunk(self._recorded.action[row : row + 1].astype(float), now_ns)

    def instead(self, chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
        """What was executed when ``chunk`` was the label; the episode's perturbation."""
        return self._chunk(self._recorded.chunks[self._row(chunk.t0_ns)], chunk.t0_ns)

    def _row(self, now_ns: int) -> int:
        return min(round(now_ns * 1e-9 * self._card.control_hz), self._recorded.length - 1)

    def _chunk(self, values: Array, now_ns: int) -> ActionChunk:
        card = self._spec.embodiment
        if round(now_ns * 1e-9 * card.control_hz) >= self._recorded.length:
            values = self._still(values)
        if not self._same:
            values = targets_of(self._env, self._source, values, self._env.commanded())
        return ActionChunk(values, now_ns, card.control_dt_s, card.hash, horizon=1)

    def _still(self, values: Array) -> Array:
        """The last target again; for steps and rates none, with the gripper as it was."""
        values = values[:1].copy()
        if self._card.action_reference == "commanded":
            grippers = {arm.gripper for arm in self._card.arms}
            values[:, [i for i, name in enumerate(self._card.action.names) if name not in grippers]] = 0.0
        return values


def targets_of(env: Env, source: Controller | None, values: Array, commanded: Reference) -> Array:
    """Values [H, A] of a store's card as targets [H, A] of the robot's own card.

    Args:
        env: Of the robot.
        source: Controller of the store, None for the robot's own card.
        values: As stored.
        commanded: Before the first of them, in the channels that the environment's executor is driven with.
    """
    if source is None:
        return values
    chunk = ActionChunk(values, 0, source.card.control_dt_s, source.card.hash)
    targets = np.asarray(source.to_native(chunk, seen_by(env, source, commanded)).values, float)
    if env.embodiment.action_space == "ee_pose" and source.native.action_space == "joint_position":
        return np.stack([_pose(env, row) for row in targets])
    return targets


def seen_by(env: Env, controller: Controller, commanded: Reference) -> Reference:
    """What is commanded, in the channels of another controller's native card."""
    native, joints = env.executor.embodiment, commanded.joints
    if native.action_space == controller.native.action_space:
        return commanded
    if controller.native.action_space == "ee_pose":
        return Reference(joints, _pose(env, joints))
    # the joints of the commanded pose: those last sent may still be behind it, and steps would lose what is missing
    joints = JointTargets(native)(commanded.action[None], joints, pull=0.0)[0]
    return Reference(joints, joints)


def _pose(env: Env, joints: Array) -> Array:
    """[A] TCP pose and gripper of command channels [J]."""
    return np.asarray(env.kinematics.only.tcp_state(joints))


def label_of_row(env: Env, recorded: RecordedEpisode, card: Embodiment, row: int) -> ActionChunk:
    """The recorded label of a row as an action of the environment's card, without simulating anything.

    Steps are counted from the recorded command: the joints, and for the TCP the target executed in the row before.
    """
    values = recorded.action[row : row + 1].astype(float)
    if card.hash != env.card.hash:
        source, joints = find_controller(card, None)[1], recorded.joint_command[row].astype(float)
        before = Reference(joints, joints)
        if env.executor.embodiment.action_space == "ee_pose":
            known = row > 0 and source is None and card.action_space == "ee_pose"
            before = Reference(joints, recorded.chunks[row - 1][0] if known else _pose(env, joints))
        values = targets_of(env, source, values, before)
        if env.controller is not None:
            values = env.controller.from_native(values, before)
    return ActionChunk(values, int(recorded.time_ns[row]), card.control_dt_s, env.card.hash)
