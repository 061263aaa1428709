from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

class Chain:
    def __init__(
        self,
        n: int,
        constant: _Array,
        cosine: _Array,
        sine: _Array,
        tcp: _Array,
        axis: _Array,
        lower: _Array,
        upper: _Array,
        home: _Array,
    ) -> None: ...
    def forward(self, q: _Array, position: _Array, rotation: _Array, /) -> None: ...
    def solve(
        self,
        q: _Array,
        position: _Array,
        rotation: _Array,
        iterations: int,
        damping: float,
        most_m: float,
        most_rad: float,
        nullspace: float,
        tolerance_m: float,
        tolerance_rad: float,
        out: _Array,
        /,
    ) -> tuple[float, float, int, bool]: ...

class Follower:
    def __init__(
        self,
        chain: Chain,
        width: int,
        joints: int,
        position: Sequence[int],
        rotation: Sequence[int],
        end: Sequence[int],
        arm: Sequence[int],
        target: Sequence[int],
        iterations: int,
        damping: float,
        most_m: float,
        most_rad: float,
        /,
    ) -> None: ...

class Limiter:
    def __init__(
        self,
        count: int,
        lower: _Array,
        upper: _Array,
        velocity: _Array,
        acceleration: _Array,
        jerk: _Array,
        guards: tuple[tuple[Chain, Sequence[int], _Array, _Array], ...],
    ) -> None: ...
    def reset(self, p: _Array, v: _Array, a: _Array, /) -> int: ...
    def limit(self, wish: _Array, out: _Array, /) -> tuple[int, int]: ...
    def brake(self, out: _Array, /) -> None: ...
    def state(self, out: _Array, /) -> None: ...
    def at_rest(self, share: float, /) -> bool: ...

class Path:
    def __init__(
        self,
        times: Sequence[int],
        values: _Array,
        rate: _Array,
        tail_ns: int,
        rotation: Sequence[int],
        gripper: Sequence[int],
        /,
    ) -> None: ...
    def at(self, time_ns: int, out: _Array, /) -> None: ...
    def rate(self, time_ns: int, out: _Array, /) -> None: ...

class Checks:
    def __init__(
        self,
        width: int,
        position: Sequence[int],
        rotation: Sequence[int],
        middle: _Array,
        reach: _Array,
        lower: _Array,
        upper: _Array,
        /,
    ) -> None: ...
    def check(self, values: _Array, most_turn_rad: float, /) -> int: ...
    def clean(self, values: _Array, /) -> None: ...
    def jump(self, old: _Array, new: _Array, /) -> tuple[float, float]: ...

def track(
    path: Path,
    follower: Follower | None,
    limiter: Limiter,
    time_ns: int,
    nullspace: float,
    reference: _Array,
    command: _Array,
    /,
) -> tuple[int, int] | None: ...
def drive(
    step: Callable[[Any, Any], None],
    model: Any,
    data: Any,
    control: _Array,
    first: int,
    start: _Array,
    target: _Array,
    lead: _Array,
    substeps: int,
    /,
) -> None: ...
def finite(values: _Array, /) -> bool: ...
