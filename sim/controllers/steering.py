"""Carries chunks of a controller to the executor: remembers what was commanded at each observation."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.executor import Executor, MergeReport, Tick
from robopolicy.sim.controllers.base import Controller, Reference, load_controller
from robopolicy.sim.controllers.cartesian import EeStiffness
from robopolicy.sim.controllers.impedance import CartesianImpedance
from robopolicy.sim.scene import Scene
from robopolicy.types import ActionChunk

__all__ = ["Steering", "commanded", "steer"]

Array = NDArray[np.floating]

KEPT = 64
"""Observations whose command is remembered; a chunk of an older one is counted from the present command."""


class Steering:
    """One controller in one environment.

    Args:
        controller: Translates.
        executor: Driven with the controller's native card.
        impedance: Takes the stiffness of chunks; only of the controller ``ee_stiffness``.
    """

    def __init__(self, controller: Controller, executor: Executor, impedance: CartesianImpedance | None = None):
        self.controller, self.executor, self.impedance = controller, executor, impedance
        self._references: OrderedDict[int, Reference] = OrderedDict()
        self._translator: Controller | None = None

    def begin(self) -> None:
        """Forget the last episode."""
        self._references.clear()
        if self.impedance is not None:
            self.impedance.begin()

    def note(self, now_ns: int, tick: Tick | None) -> None:
        """Remember what is commanded for ``now_ns``: what the last tick decided, or where the arm stands."""
        self._references[now_ns] = commanded(self.executor, tick)
        while len(self._references) > KEPT:
            self._references.popitem(last=False)

    def at(self, t0_ns: int) -> Reference:
        """What was commanded for an observation's time."""
        found = self._references.get(t0_ns)
        if found is not None:
            return found
        return next(reversed(self._references.values())) if self._references else commanded(self.executor, None)

    def label(self, chunk: ActionChunk) -> ActionChunk:
        """A chunk as actions of the controller's card; one of the robot's own card is translated."""
        if chunk.embodiment != self.controller.robot.hash:
            return chunk
        values = self.controller.from_native(np.asarray(chunk.values, float), self.at(chunk.t0_ns))
        return dataclasses.replace(chunk, values=values, embodiment=self.controller.card.hash)

    def scheduled(self, t0_ns: int, delay_ns: int = 0) -> ActionChunk | None:
        """What is going to be executed after an observation, as actions of the controller's card.

        The path in channels of the native card is translated as an expert's targets are: steps and rates are counted
        from what was commanded at ``t0_ns``; a stiffness is the default.
        """
        ahead = self.executor.scheduled(t0_ns, delay_ns)
        if ahead is None:
            return None
        if self._translator is None:
            # the same controller for a robot whose own actions are the native ones: the path is of those
            self._translator = load_controller(self.controller.card.name.partition("@")[2], self.controller.native)
        values = self._translator.from_native(np.asarray(ahead.values, float), self.at(t0_ns))
        return dataclasses.replace(ahead, values=values, embodiment=self.controller.card.hash)

    def submit(self, chunk: ActionChunk, now_ns: int) -> MergeReport:
        """Hand a chunk of the controller's or of the robot's own card to the executor.

        One of any other card, or of the wrong width, is passed on as it is and refused there.
        """
        own = self.label(chunk)
        if own.embodiment != self.controller.card.hash or own.values.shape[1] != len(self.controller.card.action):
            return self.executor.submit(dataclasses.replace(chunk, embodiment="other"), now_ns)
        report = self.executor.submit(self.controller.to_native(own, self.at(own.t0_ns)), now_ns)
        if self.impedance is not None and report.accepted:
            assert isinstance(self.controller, EeStiffness)
            self.impedance.follow(own.time_ns, self.controller.stiffness(own))
        return report


def commanded(executor: Executor, tick: Tick | None) -> Reference:
    """What is commanded for the end of a tick: its reference, or where the arm is told to stand without one."""
    joints: Array = executor.command.copy()
    cartesian = executor.embodiment.action_space == "ee_pose"
    if tick is not None and tick.reference is not None:
        target = np.array(tick.reference, float)
        # in joint space the reference itself counts: the limiter may still be behind it
        return Reference(joints, target) if cartesian else Reference(target, target)
    return Reference(joints, executor.kinematics.only.tcp_state(joints) if cartesian else joints)


def steer(controller: Controller, executor: Executor, scene: Scene) -> Steering:
    """What carries the controller's chunks to the executor of a scene."""
    if not isinstance(controller, EeStiffness):
        return Steering(controller, executor)
    arm = executor.kinematics.only
    return Steering(controller, executor, CartesianImpedance(scene, arm, controller.default, controller.damping_ratio))
