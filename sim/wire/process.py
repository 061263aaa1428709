"""A box in a process of its own, steered through its standard input and output, one JSON object per line.

``python -m robopolicy.sim.wire.process '{"target": "robopolicy.sim.wire.ur:VirtualUR", "card": "ur5e_2f85"}'`` prints
``{"address": {...}}`` when it can be reached, and ends when its input is closed. Requests: ``{"do": "fault", ...}``,
``report``, ``reset`` (split, index), ``recover``, ``save`` (path).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import RobopolicyError, SimulationError, explain
from robopolicy.registry import load_target
from robopolicy.sim.plant import KinematicPlant, Plant
from robopolicy.sim.wire.box import Box, BoxLoop
from robopolicy.sim.wire.faults import WireFaults

__all__ = ["WireProcess", "build_box", "main"]

READY_S = 60.0


def build_box(
    target: str,
    card: str,
    *,
    task: str = "",
    cameras: tuple[str, ...] = (),
    faults: dict[str, Any] | None = None,
    **options: Any,
) -> Box:
    """A box and its plant: a MuJoCo scene when a task is named, else an arm that follows at once.

    Args:
        target: ``module:Class`` of the box.
        card: Embodiment.
        task: Task of the scene.
        cameras: Rendered with each frame.
        faults: Faults from the beginning.
        **options: Of the box.

    Raises:
        SimulationError: an unknown fault.
    """
    made, kind = WireFaults(), load_target(target)
    made.set(**(faults or {}))
    robot = load_embodiment(card)
    rate_hz = 1.0 / kind.period_s
    plant: Plant
    if task:
        from robopolicy.sim.mujoco_plant import MujocoPlant

        plant = MujocoPlant(robot, task=task, cameras=cameras, rate_hz=rate_hz)
    else:
        plant = KinematicPlant(robot, cameras=cameras, rate_hz=rate_hz)
    box: Box = kind(robot, plant, made, **options)
    return box


class _Desk:
    """Answers the requests of the process that started the box."""

    def __init__(self, loop: BoxLoop):
        self._loop, self._box, self._buffer = loop, loop.box, b""
        self.done = False

    def read(self) -> None:
        data = os.read(0, 65536)
        self.done |= not data
        self._buffer += data
        while b"\n" in self._buffer:
            line, self._buffer = self._buffer.split(b"\n", 1)
            try:
                reply = {"ok": True, **self._answer(json.loads(line))}
            except (RobopolicyError, ValueError, KeyError, TypeError, OSError) as error:
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        box, kind = self._box, request.pop("do")
        if kind == "fault":
            box.faults.set(**request)
        elif kind == "report":
            position, velocity = box.plant.measure()
            measured = {"position": np.asarray(position).tolist(), "velocity": np.asarray(velocity).tolist()}
            return {**box.recorder.report(), **box.state(), **measured, "slips": self._loop.slips}
        elif kind == "reset":
            box.plant.reset(str(request["split"]), int(request["index"]))
            standing = box.plant.measure()[0]
            box.reset(standing)
            box.recorder.reset(standing)
            self._loop.anchor()
        elif kind == "recover":
            box.faults.set(protective_stop=False, emergency_stop=False)
            box.recover()
        elif kind == "save":
            box.recorder.save(Path(request["path"]))
        else:
            raise SimulationError(explain("unknown request", given=kind, allowed="fault report reset recover save"))
        return {}


def main(argv: list[str] | None = None) -> int:
    """Serve until the standard input is closed."""
    described = json.loads((sys.argv[1:] if argv is None else argv)[0])
    described["cameras"] = tuple(described.get("cameras", ()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = BoxLoop(build_box(**described))
    desk = _Desk(loop)
    loop.watch(0, desk.read)
    print(json.dumps({"ok": True, "address": loop.box.address}), flush=True)
    try:
        while not desk.done:
            loop.step()
    finally:
        loop.close()
    return 0


class WireProcess:
    """A box in a process of its own; leaving the context ends it.

    Args:
        target: ``module:Class`` of the box.
        card: Embodiment.
        **options: See :func:`build_box`.

    Attributes:
        address: What a driver needs to reach it, as keyword arguments.
        process: The process, to be stopped or killed by tests.

    Raises:
        SimulationError: it did not start; the message ends with what it wrote.
    """

    def __init__(self, target: str, card: str, **options: Any):
        described = json.dumps({"target": target, "card": card, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "robopolicy.sim.wire.process", described],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""
        try:
            self.address: dict[str, Any] = self._reply(READY_S)["address"]
        except BaseException:
            self.close()
            raise

    def fault(self, **values: Any) -> None:
        """Change the faults in force, see :class:`~robopolicy.sim.wire.faults.WireFaults`."""
        self._ask("fault", **values)

    def report(self) -> dict[str, Any]:
        """Counts and violations at the wire, state of the box, measured ``position`` and ``velocity`` [J]."""
        return self._ask("report")

    def reset(self, split: str, index: int) -> None:
        """Set up scene ``(split, index)``; counts begin again."""
        self._ask("reset", split=split, index=index)

    def recover(self) -> None:
        """Clear a stop, as a person at the teach pendant would."""
        self._ask("recover")

    def save(self, path: str | Path) -> None:
        """Have the trace of setpoints written."""
        self._ask("save", path=str(Path(path).resolve()))

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self.process.stdin.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, kind: str, **values: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": kind, **values}).encode() + b"\n")
        self.process.stdin.flush()
        return self._reply(30.0)

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        until = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(until - time.monotonic(), 0.0)):
                    raise SimulationError(explain("the simulated controller does not answer", given=f"{timeout_s} s"))
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise SimulationError(explain("the simulated controller has ended", given=self._last_words()))
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        if not reply.pop("ok"):
            raise SimulationError(reply["error"])
        return reply

    def _last_words(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(5.0)
        return self.process.stderr.read().decode(errors="replace")[-800:]


if __name__ == "__main__":
    sys.exit(main())
