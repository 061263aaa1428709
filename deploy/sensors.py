"""The sensor process of a real robot: cameras and measured joints become the frames that a policy sees.

``python -m robopolicy.deploy.sensors RUN_DIR PARENT_PID`` is started by the supervisor when no other process plays the
robot. A frame is published at ``control_hz`` as long as **every** source is fresh: a camera that has frozen must not
read as valid, so with an old picture or an old joint state there is no frame, and the arm comes to its planned stop.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.clock import MonotonicClock
from robopolicy.control.robot import RobotKinematics
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.process import ParentWatch, die_with_parent, ignore_terminal_signals
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.registry import load_target

__all__ = ["CameraSource", "Sensors", "main", "open_cameras"]

Image = NDArray[np.uint8]


class CameraSource(Protocol):
    """One camera; built as ``Class(height, width, **options)``. Never makes the caller wait for a picture."""

    def read(self) -> tuple[Image, int] | None:
        """Newest picture u8 [H, W, 3] RGB with the monotonic time (ns) of its capture; None before the first."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


def open_cameras(config: DaemonConfig) -> dict[str, CameraSource]:
    """The cameras that the policy reads, as the robot's YAML says where they are.

    Raises:
        DeployError: one of them is not named there, or cannot be opened.
    """
    found: dict[str, CameraSource] = {}
    try:
        for name in config.cameras:
            if name not in config.robot.cameras:
                raise DeployError(
                    explain(
                        f"nobody knows where the camera '{name}' is",
                        given=sorted(config.robot.cameras),
                        allowed="every camera that the policy reads",
                        mend=f"robot.cameras.{name}.source=robopolicy.deploy.cameras.opencv:OpenCVCamera "
                        f"robot.cameras.{name}.device=0",
                    )
                )
            options, card = dict(config.robot.cameras[name]), config.card.camera(name)
            found[name] = load_target(options.pop("source"))(card.height, card.width, **options)
    except BaseException:
        for camera in found.values():
            camera.close()
        raise
    return found


class Sensors:
    """Assembles frames.

    Args:
        bus: Shared memory; ``frames`` is written.
        card: The robot.
        cameras: By name.
        oldest_s: Age at which a source counts as lost.

    Attributes:
        late: Why the last frame was not published, or nothing.
    """

    def __init__(self, bus: Bus, card: Embodiment, cameras: Mapping[str, CameraSource], oldest_s: float):
        self._bus, self._cameras, self._oldest_ns = bus, cameras, round(oldest_s * 1e9)
        self._kinematics = RobotKinematics(card)
        self._step = 0
        self.late = "not asked yet"

    def publish(self, now_ns: int) -> bool:
        """One frame of now. -> whether every source was fresh."""
        self._step += 1
        joints = self._bus.ring("state").latest()
        self.late = ""
        if joints is None or now_ns - int(joints[1]["t_robot_ns"]) > self._oldest_ns:
            self.late = "the joints"
        images: dict[str, Image] = {}
        for name, camera in self._cameras.items():
            seen = camera.read()
            if seen is None or now_ns - seen[1] > self._oldest_ns:
                self.late = f"camera {name}"
            else:
                images[name] = seen[0]
        if self.late or joints is None:
            return False
        position = np.array(joints[1]["position"], float)
        ring = self._bus.ring("frames")
        record = np.zeros((), ring.dtype)
        record["time_ns"], record["step"], record["scene"] = now_ns, self._step, 1
        record["state"] = self._kinematics.tcp_state(position)
        record["joint_position"] = position
        for name, image in images.items():
            record[f"image/{name}"] = image
        ring.write(record)
        self._bus.heartbeat.beat("sensors", now_ns)
        return True


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor ends this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    die_with_parent()
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    bus, clock = Bus.attach({"frames"}), MonotonicClock()
    cameras = open_cameras(config)
    sensors = Sensors(bus, config.card, cameras, config.deploy.sensors_timeout_s)
    period_ns = round(config.card.control_dt_s * 1e9)
    due_ns, said = clock.now_ns(), ""
    # ready once the cameras are open; whether their pictures are fresh is asked when something moves
    bus.heartbeat.beat("sensors")
    try:
        while not parent.lost:
            due_ns += period_ns
            clock.sleep_until_ns(due_ns)
            now_ns = clock.now_ns()
            due_ns += max(now_ns - due_ns, 0) // period_ns * period_ns
            sensors.publish(now_ns)
            if sensors.late != said:
                said = sensors.late
                print(f"sensors: {'waiting for ' + said if said else 'all fresh'}", file=sys.stderr, flush=True)
    finally:
        for camera in cameras.values():
            camera.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
