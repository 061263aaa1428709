"""The stop channel of servo buses: a second opener of the device, for when the process that drives the arm is dead."""

from __future__ import annotations

from robopolicy.deploy.drivers.servo_bus import ServoBusDriver

__all__ = ["ServoStop"]


class ServoStop:
    """A :class:`~robopolicy.protocols.StopChannel`: a second opener of the bus, which brings every servo to rest.

    The device is opened only when :meth:`stop` is called, for opening a serial port disturbs whoever reads from it.

    Args:
        driver: Built, not connected, for this process.
    """

    def __init__(self, driver: ServoBusDriver):
        self._driver = driver

    def stop(self) -> None:
        """Goals to where the servos come to rest; torque stays.

        Raises:
            DeployError: the bus cannot be reached.
        """
        self._driver.open(claim=False)
        try:
            self._driver.first_answer()
            self._driver.stop()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the port."""
        self._driver.close()
