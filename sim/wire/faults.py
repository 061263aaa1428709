"""What can be made to go wrong at a simulated controller."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.errors import SimulationError, explain

__all__ = ["WireFaults"]


@dataclass
class WireFaults:
    """Faults in force now; every box asks before it reads, answers or moves.

    Attributes:
        freeze: The box neither reads nor answers, its clock stands, its motors keep the last target.
        silent_clock: It answers, but its own time stamp stands (a controller that hangs behind a live network card).
        drop: Share of answers that are lost, 0..1.
        delay_s: Answers come this much later.
        corrupt: Share of answers with a flipped byte, 0..1.
        disconnect: The next answer is cut in the middle and the connection closed; falls back to False by itself.
        refuse: New connections are refused.
        protective_stop: The box latches a protective stop: it brakes by its own means and ignores setpoints.
        emergency_stop: As a pressed button: likewise, with the vendor's other bit.
        speed_scale: Share of full speed at which the box carries setpoints out.
        seed: Of the draws for ``drop`` and ``corrupt``.
    """

    freeze: bool = False
    silent_clock: bool = False
    drop: float = 0.0
    delay_s: float = 0.0
    corrupt: float = 0.0
    disconnect: bool = False
    refuse: bool = False
    protective_stop: bool = False
    emergency_stop: bool = False
    speed_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def set(self, **values: Any) -> None:
        """Change some of them.

        Raises:
            SimulationError: no such fault, or a share outside 0..1.
        """
        known = {field.name: field for field in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in known:
                raise SimulationError(explain("no such wire fault", given=name, allowed=sorted(known)))
            share = name in ("drop", "corrupt", "speed_scale")
            if (share and not 0.0 <= float(value) <= 1.0) or (name == "delay_s" and not float(value) >= 0.0):
                raise SimulationError(
                    explain(f"wire fault {name} out of range", given=value, allowed="0..1; delay >= 0")
                )
        for name, value in values.items():
            setattr(self, name, type(getattr(self, name))(value))
        if "seed" in values:
            self._rng = np.random.default_rng(self.seed)

    @property
    def stopped(self) -> bool:
        """Whether the box is in a protective or emergency stop."""
        return self.protective_stop or self.emergency_stop

    def answer(self, packet: bytes) -> bytes | None:
        """What of an answer really goes out: it, a damaged copy, or None when it is lost."""
        if self.freeze or (self.drop and self._rng.random() < self.drop):
            return None
        if self.corrupt and packet and self._rng.random() < self.corrupt:
            at = int(self._rng.integers(len(packet)))
            return packet[:at] + bytes([packet[at] ^ int(self._rng.integers(1, 256))]) + packet[at + 1 :]
        return packet
