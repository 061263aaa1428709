"""Answers commands about one adapter until the other end closes. Runs in the benchmark's environment.

Every command is answered by ``ok`` or by ``error`` with ``fault``: ``request`` (what was asked cannot be done; the
benchmark is well) or ``environment`` (the benchmark raised, so its state is no longer known).

=========  ==========================================  ===========================================================
command    body, arrays                                answer
=========  ==========================================  ===========================================================
hello      protocol                                    protocol, versions
tasks                                                  tasks
make       task, render_profile                        the fields of :class:`~robopolicy.sim.bench.guest.adapter.Spec`
reset      split, index, seed                          initial_state, rest; arrays state, environment_state
step       array action f64 [A]                        reward, terminated, truncated, success, metrics; same arrays
expert                                                 array action f64 [A]
render     camera, height, width                       array image uint8 [H, W, 3]
close                                                  then the process ends
=========  ==========================================  ===========================================================
"""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from robopolicy.sim.bench.guest.adapter import Adapter, Moment, Spec
from robopolicy.sim.bench.guest.wire import PROTOCOL, Channel, ClosedError, Message

__all__ = ["RequestError", "Server", "serve"]


class RequestError(Exception):
    """What was asked cannot be done; nothing has changed."""


def serve(make_adapter: Callable[[], Adapter], read_fd: int, write_fd: int) -> None:
    """Answer until the other end closes or says ``close``."""
    channel = Channel(read_fd, write_fd)
    server = Server(make_adapter)
    try:
        while True:
            request = channel.receive()
            channel.send(server.answer(request))
            if request.kind == "close":
                return
    except ClosedError:
        return


class Server:
    """One adapter and the task that it has built.

    Args:
        make_adapter: Called at the first command, so that a failing import is an answer and not a silence.
    """

    def __init__(self, make_adapter: Callable[[], Adapter]):
        self._make_adapter = make_adapter
        self._adapter: Adapter | None = None
        self._spec: Spec | None = None
        self._running = False

    def answer(self, request: Message) -> Message:
        """The answer to one request; never raises."""
        handler = getattr(self, f"_on_{request.kind}", None)
        try:
            if handler is None:
                raise RequestError(f"no such command: '{request.kind}'")
            body, arrays = handler(request.body, request.arrays)
            message = Message("ok", request.id, body, arrays)
            message.encode()
            return message
        except RequestError as error:
            return self._error(request, "request", error)
        except Exception as error:  # whatever a benchmark raises is told, and the other end decides
            traceback.print_exc(file=sys.stderr)
            return self._error(request, "environment", error)

    @staticmethod
    def _error(request: Message, fault: str, error: Exception) -> Message:
        text = f"{type(error).__name__}: {error}" if fault == "environment" else str(error)
        return Message("error", request.id, {"fault": fault, "message": text[:2000]})

    @property
    def adapter(self) -> Adapter:
        """The adapter, made at the first use."""
        if self._adapter is None:
            self._adapter = self._make_adapter()
        return self._adapter

    def _on_hello(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if body.get("protocol") != PROTOCOL:
            raise RequestError(f"protocol {body.get('protocol')} is not mine, which is {PROTOCOL}")
        versions = {"python": platform.python_version(), "numpy": np.__version__, **self.adapter.versions()}
        return {"protocol": PROTOCOL, "versions": {str(k): str(v) for k, v in versions.items()}}, {}

    def _on_tasks(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"tasks": [str(name) for name in self.adapter.tasks()]}, {}

    def _on_make(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        task, profile = _text(body, "task"), _text(body, "render_profile")
        if profile not in ("stock", "fast"):
            raise RequestError(f"no render profile '{profile}'; allowed: stock, fast")
        self._spec, self._running = None, False
        if task not in self.adapter.tasks():
            raise RequestError(f"no task '{task}'")
        self._spec = self.adapter.make(task, profile)
        return dataclasses.asdict(self._spec), {}

    def _on_reset(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        spec = self._made()
        split, index, seed = _text(body, "split"), _count(body, "index"), _count(body, "seed")
        self._running = False
        moment = self.adapter.reset(split, index, seed)
        self._running = True
        if len(moment.rest) != len(spec.action_lower):
            raise ValueError(f"rest has {len(moment.rest)} entries, an action {len(spec.action_lower)}")
        initial = {str(k): float(v) for k, v in moment.initial_state.items()}
        return {"initial_state": initial, "rest": [float(v) for v in moment.rest]}, _observed(moment, spec)

    def _on_step(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        spec = self._made(running=True)
        action = arrays.get("action")
        if action is None or action.dtype != np.float64 or action.shape != (len(spec.action_lower),):
            given = None if action is None else (action.dtype.str, action.shape)
            raise RequestError(f"a step needs action f64 [{len(spec.action_lower)}], given: {given}")
        if not np.isfinite(action).all():
            raise RequestError("an action must be finite")
        try:
            moment = self.adapter.step(action)
        except (
            FloatingPointError
        ) as error:  # told as numbers that are not finite: the episode fails, the process is well
            print(f"diverged: {error}", file=sys.stderr)
            self._running = False
            nothing = np.full(len(spec.state), np.nan), np.full(len(spec.environment_state), np.nan)
            moment = Moment(*nothing, terminated=True)
        reward = float(moment.reward)
        return {
            "reward": reward if math.isfinite(reward) else None,
            "terminated": bool(moment.terminated),
            "truncated": bool(moment.truncated),
            "success": bool(moment.success),
            "metrics": {str(k): float(v) for k, v in moment.metrics.items() if math.isfinite(float(v))},
        }, _observed(moment, spec)

    def _on_expert(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        spec = self._made(running=True)
        if not spec.expert:
            raise RequestError("this benchmark has no expert for the task")
        try:
            action = np.asarray(self.adapter.expert(), np.float64)
        except LookupError as error:
            raise RequestError(str(error)) from error
        return {}, {"action": np.clip(action, spec.action_lower, spec.action_upper)}

    def _on_render(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        spec = self._made(running=True)
        camera, height, width = _text(body, "camera"), _count(body, "height"), _count(body, "width")
        if camera not in spec.cameras:
            raise RequestError(f"no camera '{camera}'; allowed: {', '.join(spec.cameras)}")
        if not (0 < height <= 2048 and 0 < width <= 2048):
            raise RequestError(f"a picture of {height} x {width}; allowed: 1 to 2048 each way")
        image = np.ascontiguousarray(self.adapter.render(camera, height, width))
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise ValueError(f"rendered {image.dtype} {image.shape} instead of uint8 {(height, width, 3)}")
        return {}, {"image": image}

    def _on_close(self, body: Any, arrays: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if self._adapter is not None:
            self._adapter.close()
        return {}, {}

    def _made(self, running: bool = False) -> Spec:
        if self._spec is None:
            raise RequestError("make a task first")
        if running and not self._running:
            raise RequestError("reset first")
        return self._spec


def _observed(moment: Moment, spec: Spec) -> dict[str, np.ndarray]:
    """The two vectors as f64, of the widths that the spec promised."""
    found = {}
    for name in ("state", "environment_state"):
        value, width = np.asarray(getattr(moment, name), np.float64), len(getattr(spec, name))
        if value.shape != (width,):
            raise ValueError(f"'{name}' has shape {value.shape}, the task promised {(width,)}")
        found[name] = value
    return found


def _text(body: Any, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise RequestError(f"'{key}' must be text, given: {value!r}")
    return value


def _count(body: Any, key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise RequestError(f"'{key}' must be a whole number from 0 to 2**31 - 1, given: {value!r}")
    return value
