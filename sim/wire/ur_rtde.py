"""Universal Robots' Real-Time Data Exchange, the controller's side: packets, recipes and the handshake of one client.

A packet is ``u16 size | u8 type | payload``, big-endian, size with header. A client asks for the protocol version
(``V``), the controller's version (``v``), one output recipe (``O``), any number of input recipes (``I``), and starts
(``S``); from then on a packet ``U`` with the output recipe goes out every period, and packets ``U`` with an input
recipe come in. An input variable belongs to the client that asked first. Nothing unsolicited is sent before ``S``.
Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robopolicy.errors import SimulationError, explain

__all__ = ["Claims", "RtdeSession", "packet", "split_packets", "variable_type"]

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT32": "I",
    "UINT64": "Q",
    "INT32": "i",
    "DOUBLE": "d",
    "VECTOR3D": "3d",
    "VECTOR6D": "6d",
    "VECTOR6INT32": "6i",
    "VECTOR6UINT32": "6I",
}
_VECTORS = (
    *("target_q", "target_qd", "target_qdd", "target_current", "target_moment", "target_TCP_pose", "target_TCP_speed"),
    *("actual_q", "actual_qd", "actual_current", "actual_TCP_pose", "actual_TCP_speed", "actual_TCP_force"),
    *("joint_control_output", "joint_temperatures", "actual_joint_voltage", "ft_raw_wrench", "payload_inertia"),
)
_DOUBLES = (
    *("timestamp", "actual_execution_time", "speed_scaling", "target_speed_fraction", "actual_momentum", "payload"),
    *("actual_main_voltage", "actual_robot_voltage", "actual_robot_current", "tcp_force_scalar"),
    *("standard_analog_input0", "standard_analog_input1", "standard_analog_output0", "standard_analog_output1"),
)
OUTPUTS = {
    **dict.fromkeys(_VECTORS, "VECTOR6D"),
    **dict.fromkeys(_DOUBLES, "DOUBLE"),
    **dict.fromkeys(("runtime_state", "robot_status_bits", "safety_status_bits"), "UINT32"),
    **dict.fromkeys(("actual_digital_input_bits", "actual_digital_output_bits"), "UINT64"),
    **dict.fromkeys(("robot_mode", "safety_mode", "safety_status"), "INT32"),
    **dict.fromkeys(("actual_tool_accelerometer", "payload_cog"), "VECTOR3D"),
    "joint_mode": "VECTOR6INT32",
}
INPUTS = {"speed_slider_mask": "UINT32", "speed_slider_fraction": "DOUBLE", "external_force_torque": "VECTOR6D"}
_REGISTER = re.compile(r"(input|output)_(int|double)_register_(\d{1,2})")
HEADER = struct.Struct(">HB")
MOST_RECIPES = 254


def variable_type(name: str, direction: str) -> str | None:
    """Type of a variable of PolyScope 5.15, or None when there is none of that name.

    Args:
        name: Of the variable.
        direction: ``input`` or ``output``.
    """
    found = _REGISTER.fullmatch(name)
    if found:
        kind = {"int": "INT32", "double": "DOUBLE"}[found[2]]
        return kind if found[1] == direction and int(found[3]) < 48 else None
    return (INPUTS if direction == "input" else OUTPUTS).get(name)


def packet(kind: str, payload: bytes = b"") -> bytes:
    """One packet of a type, named by its letter."""
    return HEADER.pack(HEADER.size + len(payload), ord(kind)) + payload


def split_packets(buffer: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """Whole packets at the head of a buffer, and the rest.

    Raises:
        SimulationError: a size smaller than its own header; the stream cannot be followed any further.
    """
    found = []
    while len(buffer) >= HEADER.size:
        size, kind = HEADER.unpack_from(buffer)
        if size < HEADER.size:
            raise SimulationError(explain("an RTDE packet smaller than its header", given=size, allowed=">= 3"))
        if len(buffer) < size:
            break
        found.append((chr(kind), buffer[HEADER.size : size]))
        buffer = buffer[size:]
    return found, buffer


class Claims:
    """Which client writes which input variable; a controller refuses a second one with ``IN_USE``."""

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}

    def taken(self, name: str, by: object) -> bool:
        """Whether somebody else writes it."""
        return self._owners.get(name, by) is not by

    def take(self, names: Sequence[str], by: object) -> None:
        """They belong to ``by`` from now on."""
        self._owners.update(dict.fromkeys(names, by))

    def release(self, by: object) -> None:
        """``by`` is gone."""
        self._owners = {name: owner for name, owner in self._owners.items() if owner is not by}


class RtdeSession:
    """One RTDE client: its recipes, its answers, its outputs.

    Args:
        version: Of the controller: major, minor, bugfix, build.
        rate_hz: Controller cycles per second.
        claims: Of all clients.
        write: Called with the names and values of each input packet that arrived.

    Attributes:
        started: Whether outputs are wanted.
    """

    def __init__(
        self,
        version: tuple[int, int, int, int],
        rate_hz: float,
        claims: Claims,
        write: Callable[[Sequence[str], Sequence[Any]], None],
    ):
        self._version, self._rate_hz, self._claims, self._write = version, rate_hz, claims, write
        self._inputs: dict[int, tuple[list[str], struct.Struct]] = {}
        self.names: list[str] = []
        self._layout = struct.Struct(">B")
        self._every, self._count = 1, 0
        self.started = False

    def receive(self, kind: str, payload: bytes) -> bytes:
        """Take one packet. -> the answer, empty for none."""
        if kind == "V":
            return packet("V", bytes([payload == b"\x00\x02"]))
        if kind == "v":
            return packet("v", struct.pack(">4I", *self._version))
        if kind == "O":
            return packet("O", self._output_recipe(payload))
        if kind == "I":
            return packet("I", self._input_recipe(payload))
        if kind in "SP":
            self.started = kind == "S" and bool(self.names)
            return packet(kind, bytes([kind == "P" or self.started]))
        if kind == "U":
            self._data(payload)
        return b""

    def outputs(self, values: Mapping[str, Any]) -> bytes:
        """The packet of this controller cycle, empty when none is due.

        Args:
            values: Variable -> number or sequence of numbers; a missing one is 0.
        """
        self._count += 1
        if not self.started or self._count % self._every:
            return b""
        flat: list[Any] = [1]
        for name, width in zip(self.names, self._widths, strict=True):
            value = values.get(name, 0 if width == 1 else (0,) * width)
            if width == 1:
                flat.append(value)
            else:
                flat.extend(value)
        return packet("U", self._layout.pack(*flat))

    def close(self) -> None:
        """The client is gone."""
        self.started = False
        self._claims.release(self)

    def _output_recipe(self, payload: bytes) -> bytes:
        if len(payload) < 8:
            return b"\x00"
        (rate_hz,) = struct.unpack_from(">d", payload)
        names = [n for n in payload[8:].decode("ascii", "replace").split(",") if n]
        types = [variable_type(n, "output") or "NOT_FOUND" for n in names]
        if "NOT_FOUND" in types or not names or not rate_hz > 0:
            return b"\x00" + ",".join(types).encode()
        self.names, self.started = names, False
        self._widths = [int(FORMATS[t][:-1] or 1) for t in types]
        self._layout = struct.Struct(">B" + "".join(FORMATS[t] for t in types))
        self._every = max(round(self._rate_hz / min(rate_hz, self._rate_hz)), 1)
        return b"\x01" + ",".join(types).encode()

    def _input_recipe(self, payload: bytes) -> bytes:
        names = [n for n in payload.decode("ascii", "replace").split(",") if n]
        types = ["IN_USE" if self._claims.taken(n, self) else variable_type(n, "input") or "NOT_FOUND" for n in names]
        text = ",".join(types).encode()
        if not names or {"IN_USE", "NOT_FOUND"} & set(types) or len(self._inputs) >= MOST_RECIPES:
            return b"\x00" + text
        number = len(self._inputs) + 1
        self._inputs[number] = (names, struct.Struct(">" + "".join(FORMATS[t] for t in types)))
        self._claims.take(names, self)
        return bytes([number]) + text

    def _data(self, payload: bytes) -> None:
        names, layout = self._inputs.get(payload[0], ([], None)) if payload else ([], None)
        if layout is None or len(payload) != 1 + layout.size:
            return
        self._write(names, layout.unpack_from(payload, 1))
