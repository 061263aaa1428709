"""The xArm Gripper beside the stream of setpoints: its serial bus answers in milliseconds, so a thread talks to it."""

from __future__ import annotations

import threading
from typing import Any

from robopolicy.deploy.drivers.xarm_client import close_client
from robopolicy.errors import DeployError, explain

__all__ = ["XArmGripper"]

OPEN_PULSES = 850
PERIOD_S = 0.05
"""Between two exchanges; each takes two frames on the tool's bus."""


class XArmGripper:
    """Keeps an xArm Gripper at the newest opening it was given, over a connection of its own.

    Args:
        client: The vendor's client, connected; closed with this.

    Attributes:
        opening: Last measured opening, 0 closed to 1 open.
        failed: Exchanges without an answer.

    Raises:
        DeployError: no gripper answers.
    """

    def __init__(self, client: Any):
        self._client, self._wanted, self._sent = client, -1.0, -1.0
        self.opening, self.failed = 0.0, 0
        if not self._measure():
            close_client(self._client)
            raise DeployError(
                explain(
                    "the gripper does not answer", mend="is it an xArm Gripper, plugged in? else driver.gripper=none"
                )
            )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xarm-gripper", daemon=True)
        self._thread.start()

    def enable(self) -> None:
        """Switch it on where it stands."""
        self._client.set_gripper_mode(0)
        self._client.set_gripper_enable(True)

    def go(self, opening: float) -> None:
        """Newest opening that is wanted, 0..1."""
        self._wanted = min(max(opening, 0.0), 1.0)

    def close(self) -> None:
        """End the thread; the gripper keeps what it holds."""
        self._ended.set()
        self._thread.join(3.0)
        close_client(self._client)

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            wanted = self._wanted
            if wanted >= 0.0 and abs(wanted - self._sent) > 0.5 / OPEN_PULSES:
                code = self._client.set_gripper_position(round(wanted * OPEN_PULSES), wait=False, no_check=True)
                self.failed += code != 0
                self._sent = wanted if code == 0 else -1.0
            if not self._measure():
                self.failed += 1

    def _measure(self) -> bool:
        code, pulses = self._client.get_gripper_position(check_baud=False)
        if code == 0 and pulses is not None:
            self.opening = min(max(pulses / OPEN_PULSES, 0.0), 1.0)
        return bool(code == 0 and pulses is not None)
