"""How hard the robot presses on anything that is not the robot."""

from __future__ import annotations

import mujoco
import numpy as np

from robopolicy.sim.scene import Scene

__all__ = ["ContactForce"]


class ContactForce:
    """The largest contact force of an episode, looked at once per setpoint tick.

    Args:
        scene: Composed model; its ``robot_geoms`` say what the robot is.
    """

    def __init__(self, scene: Scene):
        self.model = scene.model
        self._robot = np.zeros(scene.model.ngeom, bool)
        self._robot[list(scene.robot_geoms)] = True
        self._wrench = np.zeros(6)
        self.peak_n = 0.0

    def look(self, data: mujoco.MjData) -> None:
        """Take in the contacts of the last physics step.

        The normal forces of one pair of geoms are added up, because the number of points that a contact is divided
        into is the engine's choice.
        """
        if data.ncon == 0:
            return
        geoms = data.contact.geom  # [ncon, 2]
        robot = self._robot[geoms]
        pairs: dict[tuple[int, int], float] = {}
        for i in np.flatnonzero(robot[:, 0] != robot[:, 1]):
            mujoco.mj_contactForce(self.model, data, i, self._wrench)
            key = (int(geoms[i, 0]), int(geoms[i, 1]))
            pairs[key] = pairs.get(key, 0.0) + float(self._wrench[0])
        if pairs:
            self.peak_n = max(self.peak_n, *pairs.values())
