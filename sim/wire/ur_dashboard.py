"""The dashboard server of a simulated UR controller: one line in, one line out."""

from __future__ import annotations

from robopolicy.sim.wire.ur_dispatcher import (
    MODE_IDLE,
    MODE_POWER_OFF,
    MODE_RUNNING,
    PAUSED,
    PLAYING,
    UrController,
)

__all__ = ["BANNER", "Dashboard"]

BANNER = "Connected: Universal Robots Dashboard Server\n"
MODES = {MODE_POWER_OFF: "POWER_OFF", MODE_IDLE: "IDLE", MODE_RUNNING: "RUNNING"}


class Dashboard:
    """Answers the commands that drivers use. Source: Universal Robots, "Dashboard Server e-Series".

    Args:
        controller: What is commanded.
        version: Of PolyScope: major, minor, bugfix, build.
        remote: Whether the pendant's switch is at remote control.
    """

    def __init__(self, controller: UrController, version: tuple[int, int, int, int], *, remote: bool = True):
        self._controller, self._version, self._remote = controller, version, remote

    def answer(self, line: str) -> str:
        """The reply to one command, with its line end."""
        return f"{self._answer(line.strip())}\n"

    def _answer(self, command: str) -> str:
        controller, word = self._controller, command.lower()
        if word == "polyscopeversion":
            return "URSoftware {}.{}.{}.{} (simulated)".format(*self._version)
        if word == "get serial number":
            return "20265500001"
        if word == "get robot model":
            return "UR5"
        if word == "is in remote control":
            return str(self._remote).lower()
        if word == "robotmode":
            return f"Robotmode: {MODES[controller.mode]}"
        if word in ("safetystatus", "safetymode"):
            stop = "ROBOT_EMERGENCY_STOP" if controller.emergency else "PROTECTIVE_STOP"
            title = "Safetystatus" if word == "safetystatus" else "Safetymode"
            return f"{title}: {stop if controller.emergency or controller.protective else 'NORMAL'}"
        if word == "programstate":
            state = {PLAYING: "PLAYING", PAUSED: "PAUSED"}.get(controller.runtime, "STOPPED")
            return f"{state} rtde_control"
        if word == "running":
            return f"Program running: {str(controller.runtime == PLAYING).lower()}"
        return self._act(word)

    def _act(self, word: str) -> str:
        controller = self._controller
        if word == "stop":
            controller.end("dashboard")
            return "Stopped"
        if word == "power on":
            if not controller.emergency and controller.mode == MODE_POWER_OFF:
                controller.mode = MODE_IDLE
            return "Powering on"
        if word == "brake release":
            if not controller.emergency:
                controller.mode = MODE_RUNNING
            return "Brake releasing"
        if word == "power off":
            controller.end("power off")
            controller.mode = MODE_POWER_OFF
            return "Powering off"
        if word == "unlock protective stop":
            if not controller.protective or controller.emergency:
                return "Cannot unlock protective stop"
            controller.protective = False
            return "Protective stop releasing"
        if word in ("close safety popup", "close popup"):
            return f"closing {word.removeprefix('close ')}"
        return f"could not understand: '{word[:80]}'"
