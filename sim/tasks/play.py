"""Task ``play``: a cube, a drawer, a slider and a button in one scene, with goals over all four."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, explain
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.play_expert import PlayExpert
from robopolicy.sim.tasks.play_scene import LAYOUT, play_model
from robopolicy.sim.tasks.tabletop import FreeBody, touching

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["STYLES", "SUB_GOALS", "Play"]

SUB_GOALS = ("cube_on_green", "drawer_open", "lamp_on", "slider_left")
"""What is either so or not; a goal says of each which."""
STYLES = ("goal", "play")
PRESSED_M, RELEASED_M = 0.008, 0.004
"""The lamp toggles when the cap comes below the first, and not again before it was above the second."""


State = tuple[bool, bool, bool, bool]
"""One bit per entry of :data:`SUB_GOALS`."""


class Play(BaseTask):
    """Bring cube, drawer, lamp and slider into the wanted state; see :class:`robopolicy.sim.task.Task`.

    In style ``goal`` an episode has one of the 2^4 goals, unlike the start in at least one thing, and an instruction
    that names what has to change. In style ``play`` a new goal is drawn whenever one is reached, without a reset; the
    episode is without instruction and goal, and ends after ``goals`` of them.

    Args:
        style: One of :data:`STYLES`.
        goals: In style ``play``: goals until the episode is over.
        cube_size_m: Edge length.
        cube_mass_kg: Mass.
        tolerance_m: Largest distance of the cube's centre from the middle of its disc.
        open_m, closed_m: The drawer is open beyond the first, closed below the second.
        left_m, right_m: The slider is left beyond the first, right below the second.
        hold_s: How long all four have to be as wanted.
        horizon: Control steps; in style ``play`` of one goal.

    Raises:
        ConfigError: an unknown style, or less than one goal.
    """

    name = "play"
    instruction = "bring the things on the table into the wanted state"

    def __init__(
        self,
        style: str = "goal",
        goals: int = 6,
        cube_size_m: float = 0.04,
        cube_mass_kg: float = 0.06,
        tolerance_m: float = 0.03,
        open_m: float = 0.11,
        closed_m: float = 0.03,
        left_m: float = 0.13,
        right_m: float = 0.03,
        hold_s: float = 0.5,
        horizon: int = 450,
    ):
        if style not in STYLES or goals < 1:
            raise ConfigError(explain("play: no such style", given=(style, goals), allowed=f"{STYLES}, goals >= 1"))
        self.style, self.goals = style, int(goals)
        self.cube_size_m, self.cube_mass_kg = float(cube_size_m), float(cube_mass_kg)
        self.tolerance_m, self.hold_s = float(tolerance_m), float(hold_s)
        self.drawer_m, self.slider_m = (float(closed_m), float(open_m)), (float(right_m), float(left_m))
        self.horizon = int(horizon) * (self.goals if style == "play" else 1)
        names = (*(f"cube_position.{a}" for a in "xyz"), "cube_yaw.cos4", "cube_yaw.sin4")
        names += ("drawer_m", "slider_m", "button_m", "lamp_on")
        told = tuple(f"wanted.{n}" for n in SUB_GOALS) if style == "goal" else ()
        self.environment_state_names = (*names, *told)
        self.goal_names = (*SUB_GOALS, *(f"cube_position.{a}" for a in "xyz"), "drawer_m", "slider_m")
        self._language = ""

    def model(self) -> mujoco.MjSpec:
        """Table, cube and furniture; see :func:`robopolicy.sim.tasks.play_scene.play_model`."""
        return play_model(self.cube_size_m, self.cube_mass_kg)

    def bind(self, scene: Scene) -> None:
        """Ids of cube, furniture and lamp in the composed model."""
        self._scene, model = scene, scene.model
        self._cube = FreeBody(model, "cube")
        self._joints = {n: int(model.joint(n).qposadr[0]) for n in ("drawer", "slider", "button")}
        self._cube_geom = model.geom("cube").id
        self._lamp = int(model.body("lamp_lit").mocapid[0])

    # ------------------------------------------------------------------------------------------------ an episode
    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Start and goal uniform among the 2^4 states, but not the same; places and yaw jittered around the state's."""
        start = _bits(rng)
        jitter = rng.uniform(-1, 1, size=4)
        x, y = LAYOUT.discs[int(start[0])]
        yaw_rad = jitter[2] * np.pi / 4
        cube = (x + 0.015 * jitter[0], y + 0.015 * jitter[1], self.cube_size_m / 2)
        self._cube.place(data, cube, yaw_rad)
        share = 0.05 + 0.04 * jitter[3]
        drawer = LAYOUT.drawer_travel_m * (1 - share if start[1] else share)
        slider = LAYOUT.slider_travel_m * (1 - share if start[3] else share)
        data.qpos[self._joints["drawer"]], data.qpos[self._joints["slider"]] = drawer, slider
        self._light(data, bool(start[2]))
        self._pressed, self._rng = False, np.random.default_rng(rng.integers(2**63))
        self._reached = self._instants = 0
        self._goals_reached = 0
        self._draw(start)
        found = {"cube.x": cube[0], "cube.y": cube[1], "cube.yaw_rad": yaw_rad, "drawer_m": drawer, "slider_m": slider}
        found |= {f"start.{n}": v for n, v in zip(SUB_GOALS, start, strict=True)}
        found |= {f"wanted.{n}": v for n, v in zip(SUB_GOALS, self._wanted, strict=True)}
        return {name: float(value) for name, value in found.items()}

    def _draw(self, now: State) -> None:
        """A goal that differs from the state ``now``, and the words for it."""
        wanted = _bits(self._rng)
        while wanted == now:
            wanted = _bits(self._rng)
        self._wanted = wanted
        self._language = "" if self.style == "play" else _instruction(now, wanted)

    def tick(self, data: mujoco.MjData) -> None:
        """The button toggles the lamp; in style ``play`` a goal that has been held gives way to the next."""
        depth_m = float(data.qpos[self._joints["button"]])
        if not self._pressed and depth_m > PRESSED_M:
            self._pressed = True
            self._light(data, not self._lit(data))
        elif self._pressed and depth_m < RELEASED_M:
            self._pressed = False
        if self.style == "goal":
            return
        state = self._state(data)
        self._instants = self._instants + 1 if state == self._wanted and not self._touched(data) else 0
        if self._instants * self._scene.embodiment.tick_s >= self.hold_s and self._goals_reached < self.goals:
            self._goals_reached += 1
            self._instants = 0
            if self._goals_reached < self.goals:
                self._draw(state)

    def success(self, data: mujoco.MjData) -> bool:
        """All four as wanted, the cube let go; in style ``play``: as many goals reached as there had to be."""
        if self.style == "play":
            return self._goals_reached >= self.goals
        state = self._state(data)
        self._reached = sum(map(operator.eq, state, self._wanted))
        return self._reached == 4 and self._placed(data, int(self._wanted[0])) and not self._touched(data)

    def metrics(self) -> dict[str, float]:
        """``sub_goals_reached`` of four at the end; ``goals_reached`` in style ``play``."""
        if self.style == "play":
            return {"goals_reached": float(self._goals_reached)}
        return {"sub_goals_reached": float(self._reached)}

    # ------------------------------------------------------------------------------------------------- what is seen
    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Cube (m; cos and sin of four times its yaw), drawer, slider and button (m), lamp; in style ``goal`` also the
        four bits that are wanted: f32 [9] or [13]."""
        furniture = [float(data.qpos[self._joints[n]]) for n in ("drawer", "slider", "button")]
        told = self._wanted if self.style == "goal" else ()
        return np.array((*self._cube.four_fold(data), *furniture, self._lit(data), *told), np.float32)

    def language(self) -> str:
        """What has to change, in words; empty in style ``play``."""
        return self._language

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """:data:`SUB_GOALS` as 0 or 1, then where that puts the cube (m), the drawer and the slider (m): f32 [9]."""
        return np.array([*self._wanted, *self._cube_goal(), *self._furniture_goal()], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """Everything as wanted; the robot stays where it is."""
        self._cube.place(data, self._cube_goal(), self._cube.yaw(data))
        data.qpos[self._joints["drawer"]], data.qpos[self._joints["slider"]] = self._furniture_goal()
        self._light(data, bool(self._wanted[2]))

    def expert(self, env: Env) -> PlayExpert:
        """The scripted policy for the robot of ``env``."""
        return PlayExpert(env.embodiment, self.environment_state_names, self.goal_names, cube_size_m=self.cube_size_m)

    # ---------------------------------------------------------------------------------------------------- the state
    def _state(self, data: mujoco.MjData) -> State:
        """What is neither is the opposite of what is wanted."""
        x, y, _ = self._cube.position(data).tolist()
        to_blue, to_green = (math.hypot(x - a, y - b) for a, b in LAYOUT.discs)
        cube = to_green < to_blue
        if not self._placed(data, int(cube)):
            cube = not self._wanted[0]
        drawer = _either(float(data.qpos[self._joints["drawer"]]), self.drawer_m, self._wanted[1])
        slider = _either(float(data.qpos[self._joints["slider"]]), self.slider_m, self._wanted[3])
        return cube, drawer, self._lit(data), slider

    def _placed(self, data: mujoco.MjData, disc: int) -> bool:
        x, y, z = self._cube.position(data).tolist()
        goal_x, goal_y = LAYOUT.discs[disc]
        if math.hypot(x - goal_x, y - goal_y) > self.tolerance_m or abs(z - self.cube_size_m / 2) > 0.004:
            return False
        return self._cube.speed_m_s(data) < 0.05

    def _touched(self, data: mujoco.MjData) -> bool:
        return touching(self._scene, data, (self._cube_geom,))

    def _cube_goal(self) -> tuple[float, float, float]:
        return (*LAYOUT.discs[int(self._wanted[0])], self.cube_size_m / 2)

    def _furniture_goal(self) -> tuple[float, float]:
        share = {False: 0.03, True: 0.97}
        drawer, slider = share[bool(self._wanted[1])], share[bool(self._wanted[3])]
        return LAYOUT.drawer_travel_m * drawer, LAYOUT.slider_travel_m * slider

    def _light(self, data: mujoco.MjData, on: bool) -> None:
        x, y, z = LAYOUT.lamp
        data.mocap_pos[self._lamp] = [x, y, z if on else -0.3]

    def _lit(self, data: mujoco.MjData) -> bool:
        return bool(data.mocap_pos[self._lamp, 2] > 0)


def _either(value: float, bounds: tuple[float, float], wanted: bool) -> bool:
    """Above the upper bound, or not below the lower; between them the opposite of what is wanted."""
    if value > bounds[1]:
        return True
    return not wanted if value >= bounds[0] else False


def _bits(rng: np.random.Generator) -> State:
    cube, drawer, lamp, slider = rng.integers(2, size=4).astype(bool).tolist()
    return cube, drawer, lamp, slider


def _instruction(now: State, wanted: State) -> str:
    """What differs, as one sentence: ``open the drawer and press the button``."""
    words = (
        ("put the cube on the blue disc", "put the cube on the green disc"),
        ("close the drawer", "open the drawer"),
        ("press the button", "press the button"),
        ("move the slider to the right", "move the slider to the left"),
    )
    parts = [words[i][int(wanted[i])] for i in range(4) if now[i] != wanted[i]]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
