"""Encoder steps of servos and the channels of a card: from a YAML block, a file, or LeRobot's calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain

__all__ = ["NOMINAL", "STEPS", "ServoCalibration", "load_calibration"]

Vector = NDArray[np.float64]

STEPS = 4096
"""Encoder steps per turn, of Feetech STS and Dynamixel X alike."""
NOMINAL = "nominal"
MIDDLE, NOMINAL_SPAN, LEAST_SPAN = 2048, 1252, 50
KEYS = ("zero_step", "sign", "lower_step", "upper_step")
MEND = "measure it: robopolicy deploy calibrate-servos robot=NAME robot.driver.device=... out=FILE"


@dataclass(frozen=True)
class ServoCalibration:
    """Where the servos of an arm have their zero and their ends.

    Attributes:
        zero_step: [J] step at which the channel is 0.
        gain: [J] steps per channel unit, signed.
        first_step, last_step: [J] ends that a person has measured; no goal lies outside them.
        homing_offset: joint -> offset that the servo has to have in its own memory, where the source tells it.
        ids: joint -> bus identifier, where the source tells it.
    """

    zero_step: Vector
    gain: Vector
    first_step: Vector
    last_step: Vector
    homing_offset: Mapping[str, int]
    ids: Mapping[str, int]

    def steps(self, position: Vector) -> NDArray[np.int64]:
        """[J] channel units -> whole steps within the measured ends."""
        wanted = np.clip(self.zero_step + position * self.gain, self.first_step, self.last_step)
        return np.rint(wanted).astype(np.int64)

    def position(self, steps: Vector) -> Vector:
        """[J] steps -> channel units."""
        return (steps - self.zero_step) / self.gain

    def velocity(self, steps_s: Vector) -> Vector:
        """[J] steps/s -> channel units per second."""
        return steps_s / self.gain


def load_calibration(
    card: Embodiment, source: str | Mapping[str, Any], *, drive_mode_inverts: bool = True
) -> ServoCalibration:
    """Read a calibration.

    Args:
        card: Channels, all of which must be there.
        source: ``{joint: {zero_step, sign, lower_step, upper_step}}``, the path of a YAML or JSON file with that or
            with LeRobot's ``{joint: {id, drive_mode, homing_offset, range_min, range_max}}``, or ``nominal``: zero at
            step 2048, all signs +1, a gripper of 1252 steps from 2048 on, which is right for a simulated bus and for
            arms whose servos were centred when they were mounted.
        drive_mode_inverts: Whether LeRobot's ``drive_mode`` turns a joint round (Feetech) or is carried out by the
            servo itself (Dynamixel).

    Raises:
        DeployError: a joint that is missing or unknown, or numbers that cannot be true.
    """
    names = card.joints.names
    given = _read(source, names)
    unknown, missing = sorted(set(given) - set(names)), sorted(set(names) - set(given))
    if unknown or missing:
        raise DeployError(
            explain(
                f"calibration for another arm than '{card.name}'",
                given=f"unknown {unknown}, missing {missing}",
                mend=MEND,
            )
        )
    lerobot = any("range_min" in entry for entry in given.values())
    rows, offsets, ids = [], {}, {}
    for channel in card.joints.channels:
        entry = given[channel.name]
        if lerobot:
            offsets[channel.name], ids[channel.name] = _whole(entry, "homing_offset"), _whole(entry, "id")
            entry = _from_lerobot(entry, channel.unit == "rad", drive_mode_inverts)
        rows.append(_row(channel, entry))
    zero, gain, first, last = (np.array(column, float) for column in zip(*rows, strict=True))
    return ServoCalibration(zero, gain, first, last, offsets, ids)


def _read(source: str | Mapping[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    if isinstance(source, str) and source == NOMINAL:
        return {name: {} for name in names}
    if isinstance(source, Mapping):
        found: Any = source
    else:
        path = Path(source)
        if not source or not path.is_file():
            raise DeployError(explain("no calibration of the servos", given=source or "nothing", mend=MEND))
        text = path.read_text()
        try:
            found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise DeployError(explain(f"calibration that cannot be read: {error}", given=str(path))) from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Mapping) for v in found.values()):
        raise DeployError(explain("a calibration maps joints to entries", given=type(found).__name__, mend=MEND))
    return {str(name): dict(entry) for name, entry in found.items()}


def _whole(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DeployError(explain(f"LeRobot's calibration without a whole {key}", given=dict(entry)))
    return value


def _from_lerobot(entry: Mapping[str, Any], turns: bool, inverts: bool) -> dict[str, float]:
    """Degrees there are counted from the middle of the range."""
    low, high = _whole(entry, "range_min"), _whole(entry, "range_max")
    inverted = bool(entry.get("drive_mode", 0)) and inverts
    if turns:
        return {"zero_step": (low + high) / 2, "sign": -1 if inverted else 1, "lower_step": low, "upper_step": high}
    return {"lower_step": high, "upper_step": low} if inverted else {"lower_step": low, "upper_step": high}


def _row(channel: Any, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """(zero, gain, first, last) of one joint."""
    wrong = [key for key in entry if key not in KEYS]
    values = {key: entry[key] for key in KEYS if key in entry}
    bad = {
        k: v
        for k, v in values.items()
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v)
    }
    if wrong or bad:
        raise DeployError(explain(f"calibration of '{channel.name}'", given=wrong or bad, allowed=KEYS, mend=MEND))
    if channel.unit == "rad":
        zero, sign = float(values.get("zero_step", MIDDLE)), float(values.get("sign", 1))
        gain = sign * STEPS / math.tau
        ends = sorted((zero + channel.lower * gain, zero + channel.upper * gain))
        first, last = float(values.get("lower_step", ends[0])), float(values.get("upper_step", ends[1]))
        fits = sign in (1.0, -1.0) and first < zero < last and last - first >= LEAST_SPAN
    else:
        lower = float(values.get("lower_step", MIDDLE))
        upper = float(values.get("upper_step", lower + NOMINAL_SPAN))
        fits = abs(upper - lower) >= LEAST_SPAN
        gain = (upper - lower) / (channel.upper - channel.lower) if fits else 1.0
        zero, (first, last) = lower - channel.lower * gain, sorted((lower, upper))
    if not fits:
        raise DeployError(
            explain(
                f"calibration of '{channel.name}' cannot be true",
                given=dict(values),
                allowed=f"lower_step < zero_step < upper_step, {LEAST_SPAN} steps apart at least, sign 1 or -1",
                mend=MEND,
            )
        )
    return zero, gain, first, last
