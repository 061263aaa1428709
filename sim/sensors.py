"""Force and touch at the rate of the physics: the last samples of the robot's sensors, for every observation.

A robot's MJCF names its sensors after its arms: ``<arm.>wrist_force`` and ``<arm.>wrist_torque`` of a site at the wrist
make the sensor ``wrench``, every ``<arm.>touch_*`` of a fingertip makes one channel of ``touch``. Nothing is computed
for sensors that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import SimulationError, explain, suggest
from robopolicy.sim.scene import ROBOT_PREFIX

__all__ = ["SENSORS", "SENSOR_HISTORY", "SENSOR_HZ", "SensorBank", "sensor_channels"]

SENSORS = ("wrench", "touch")
"""What can be asked for."""

SENSOR_HZ = 500.0
"""Samples per second, or the rate of the physics where that is lower."""

SENSOR_HISTORY = 10
"""K, samples in an observation."""


def sensor_channels(model: mujoco.MjModel, name: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Channels of one sensor and where they are in ``sensordata``.

    ``wrench`` has force (N) then torque (N m) of each arm, in the order of the MJCF; ``touch`` one normal force (N) per
    fingertip.

    Returns:
        names [C] (``wrist_force.x``, ``left.touch_left``), addresses [C].

    Raises:
        SimulationError: no sensor of that name, or a robot without it.
    """
    if name not in SENSORS:
        raise SimulationError(explain("no such sensor", given=repr(name), allowed=SENSORS, mend=suggest(name, SENSORS)))
    names: list[str] = []
    address: list[int] = []
    for sensor in range(model.nsensor):
        full = model.sensor(sensor).name
        if not full.startswith(ROBOT_PREFIX):
            continue
        short = full.removeprefix(ROBOT_PREFIX)
        last = short.rpartition(".")[2]
        first, width = int(model.sensor_adr[sensor]), int(model.sensor_dim[sensor])
        if last in ("wrist_force", "wrist_torque") if name == "wrench" else last.startswith("touch_"):
            names += [short] if width == 1 else [f"{short}.{axis}" for axis in "xyz"[:width]]
            address += range(first, first + width)
    if not names:
        raise SimulationError(
            explain(
                f"the robot has no sensor '{name}'",
                given=[model.sensor(i).name for i in range(model.nsensor)] or "an MJCF without sensors",
                allowed="wrist_force and wrist_torque for 'wrench', touch_<finger> for 'touch'",
                mend="add sites and sensors of these names to the MJCF, or do not ask for it",
            )
        )
    return tuple(names), np.array(address, np.intp)


class SensorBank:
    """The last :data:`SENSOR_HISTORY` samples of some sensors.

    A sample shows the state that a step of the physics began with; forces are those of that state's contacts.

    Args:
        model: Compiled scene. Its sensors are switched on; off when none are asked for and all are the robot's: their
            computation costs up to a third of a step, and changes nothing of the motion.
        names: Of :data:`SENSORS`.
        keep: K, samples kept.

    Attributes:
        names: As asked for, each once.
        channels: Sensor -> names of its channels.

    Raises:
        SimulationError: the robot has no such sensor.
    """

    def __init__(self, model: mujoco.MjModel, names: Sequence[str], keep: int = SENSOR_HISTORY):
        self.names, self.keep = tuple(dict.fromkeys(names)), keep
        found = {name: sensor_channels(model, name) for name in self.names}
        self.channels = {name: channels for name, (channels, _) in found.items()}
        self._address = np.concatenate([address for _, address in found.values()] or [np.zeros(0, np.intp)])
        ends = np.cumsum([len(channels) for channels in self.channels.values()]).tolist()
        self._columns = {
            name: slice(end - len(channels), end)
            for (name, channels), end in zip(self.channels.items(), ends, strict=True)
        }
        self._every = max(1, round(1.0 / (model.opt.timestep * SENSOR_HZ)))
        self._rows = np.zeros((keep, len(self._address)))
        self._next = self._steps = 0
        own = [i for i in range(model.nsensor) if not model.sensor(i).name.startswith(ROBOT_PREFIX)]
        bit = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        if self.names or own:
            model.opt.disableflags &= ~bit
        else:
            model.opt.disableflags |= bit

    def __bool__(self) -> bool:
        """Whether anything is recorded."""
        return bool(self.names)

    def begin(self, data: mujoco.MjData) -> None:
        """Forget everything: the whole history is what the sensors show now."""
        self._rows[:] = data.sensordata[self._address]
        self._next = self._steps = 0

    def sample(self, data: mujoco.MjData) -> None:
        """To be called after every physics step; keeps every n-th."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._rows[self._next] = data.sensordata[self._address]
            self._next = (self._next + 1) % self.keep

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Sensor -> f32 [K, C], oldest first."""
        rows = np.roll(self._rows, -self._next, axis=0).astype(np.float32)
        return {name: rows[:, columns] for name, columns in self._columns.items()}
