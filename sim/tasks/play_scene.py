"""Furniture of the task ``play``: a drawer, a slider, a button with its lamp and two discs on one table.

::

                  x (away from the robot)
       0.68        [======= slider =======]
       0.55   lamp          disc 1 (green)
       0.46                                     drawer, opens towards -y
       0.42   button        disc 0 (blue)
                 -y          y = -0.07         +y

Drawer and slider each carry a post that the fingers straddle along y, which is also the axis they move on: the jaw
pushes them, friction is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.tasks.tabletop import add_cube, tabletop

__all__ = ["LAYOUT", "PlayLayout", "play_model"]

BOX, CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
FIXED = {"contype": 0, "conaffinity": 3}
"""Touches robot, cube and table, not the rest of the furniture, which its joints hold in place."""
WOOD, DARK, METAL = [0.62, 0.46, 0.30, 1], [0.25, 0.25, 0.28, 1], [0.75, 0.76, 0.80, 1]


@dataclass(frozen=True)
class PlayLayout:
    """Where everything stands; metres, base frame, table top at z = 0.

    Attributes:
        discs: Places of the cube, blue and green.
        drawer: Handle of the closed drawer; it opens by ``drawer_travel_m`` along -y.
        slider: Handle of the slider at its right end; it moves by ``slider_travel_m`` along +y.
        handle_m: Width of both posts along y.
        post_top_m: Height of the posts.
        button: Top of the cap at rest; it yields by ``button_travel_m``.
        lamp: Middle of the lamp.
        disc_radius_m: Of both discs.
    """

    discs: tuple[tuple[float, float], tuple[float, float]] = ((0.41, -0.07), (0.55, -0.07))
    drawer: tuple[float, float, float] = (0.46, 0.225, 0.085)
    drawer_travel_m: float = 0.14
    slider: tuple[float, float, float] = (0.685, -0.08, 0.075)
    slider_travel_m: float = 0.16
    handle_m: float = 0.02
    post_top_m: float = 0.10
    button: tuple[float, float, float] = (0.43, -0.24, 0.05)
    button_travel_m: float = 0.016
    lamp: tuple[float, float, float] = (0.56, -0.25, 0.045)
    disc_radius_m: float = 0.05

    def drawer_handle(self, opening_m: float) -> NDArray[np.float64]:
        """[3] where the handle is at an opening."""
        x, y, z = self.drawer
        return np.array([x, y - opening_m, z])

    def slider_handle(self, shift_m: float) -> NDArray[np.float64]:
        """[3] where the handle is at a shift."""
        x, y, z = self.slider
        return np.array([x, y + shift_m, z])


LAYOUT = PlayLayout()


def play_model(cube_size_m: float, cube_mass_kg: float, layout: PlayLayout = LAYOUT) -> mujoco.MjSpec:
    """Table, cube and furniture. Joints ``cube``, ``drawer``, ``slider``, ``button``; mocap body ``lamp_lit``."""
    spec = tabletop("play")
    world = spec.worldbody
    for index, (place, colour) in enumerate(
        zip(layout.discs, ([0.15, 0.35, 0.85, 1], [0.10, 0.65, 0.25, 1]), strict=True)
    ):
        world.add_geom(
            name=f"disc{index}",
            type=CYLINDER,
            size=[layout.disc_radius_m, 0.001, 0],
            pos=[*place, 0.0005],
            rgba=colour,
            contype=0,
            conaffinity=0,
        )
    _drawer(world, layout)
    _slider(world, layout)
    _button(world, layout)
    add_cube(spec, "cube", cube_size_m, cube_mass_kg, (0.85, 0.12, 0.10, 1))
    return spec


def _post(body: mujoco.MjsBody, name: str, layout: PlayLayout, foot_m: float, at_z_m: float) -> None:
    """A post from ``foot_m`` up to the posts' height, on a body whose origin is at height ``at_z_m``."""
    half = (layout.post_top_m - foot_m) / 2
    body.add_geom(
        name=name,
        type=BOX,
        size=[0.015, layout.handle_m / 2, half],
        pos=[0, 0, layout.post_top_m - half - at_z_m],
        rgba=METAL,
        mass=0.05,
        friction=[0.8, 0.01, 0.0002],
        solref=[0.008, 1],
        **FIXED,
    )


def _drawer(world: mujoco.MjsBody, layout: PlayLayout) -> None:
    """A cabinet of side walls, back and top, and in it a drawer that slides along -y; its front carries the post."""
    x, y, z = layout.drawer
    wall = {"type": BOX, "rgba": WOOD, **FIXED}
    back_m, depth = 0.16, 0.08
    middle = y + 0.015 + depth
    for name, size, pos in (
        ("cabinet_near", [0.006, depth, 0.03], [x - 0.086, middle, 0.03]),
        ("cabinet_far", [0.006, depth, 0.03], [x + 0.086, middle, 0.03]),
        ("cabinet_back", [0.08, 0.006, 0.03], [x, y + 0.015 + back_m, 0.03]),
        ("cabinet_top", [0.092, depth, 0.004], [x, middle, 0.064]),
    ):
        world.add_geom(name=name, size=size, pos=pos, **wall)
    drawer = world.add_body(name="drawer", pos=[x, y, z])
    drawer.add_joint(
        name="drawer",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, -1, 0],
        range=[0, layout.drawer_travel_m],
        damping=[6.0, 0, 0],
        frictionloss=0.6,
        armature=0.05,
    )
    part = {"type": BOX, "rgba": [0.80, 0.64, 0.42, 1], "mass": 0.05, **FIXED}
    drawer.add_geom(name="drawer_front", size=[0.078, 0.006, 0.026], pos=[0, 0.006, 0.028 - z], **part)
    drawer.add_geom(name="drawer_floor", size=[0.076, 0.07, 0.003], pos=[0, 0.082, 0.006 - z], **part)
    for name, offset in (("drawer_near", -0.074), ("drawer_far", 0.074)):
        drawer.add_geom(name=name, size=[0.004, 0.07, 0.018], pos=[offset, 0.082, 0.024 - z], **part)
    _post(drawer, "drawer_handle", layout, 0.03, z)


def _slider(world: mujoco.MjsBody, layout: PlayLayout) -> None:
    x, y, z = layout.slider
    half = layout.slider_travel_m / 2
    world.add_geom(
        name="rail", type=BOX, size=[0.022, half + 0.03, 0.008], pos=[x, y + half, 0.008], rgba=DARK, **FIXED
    )
    slider = world.add_body(name="slider", pos=[x, y, z])
    slider.add_joint(
        name="slider",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, 1, 0],
        range=[0, layout.slider_travel_m],
        damping=[6.0, 0, 0],
        frictionloss=0.6,
        armature=0.05,
    )
    _post(slider, "slider_handle", layout, 0.018, z)


def _button(world: mujoco.MjsBody, layout: PlayLayout) -> None:
    """A cap on a spring, and a lamp: dark always there, lit a hair larger, under the table while it is off."""
    x, y, top = layout.button
    world.add_geom(name="button_base", type=BOX, size=[0.038, 0.038, 0.013], pos=[x, y, 0.013], rgba=DARK, **FIXED)
    cap = world.add_body(name="button", pos=[x, y, top - 0.012])
    cap.add_joint(
        name="button",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, 0, -1],
        range=[0, layout.button_travel_m],
        stiffness=[150.0, 0, 0],
        damping=[1.5, 0, 0],
        armature=0.01,
    )
    cap.add_geom(name="button", type=CYLINDER, size=[0.026, 0.012, 0], rgba=[0.95, 0.75, 0.10, 1], mass=0.03, **FIXED)
    seen_only = {"contype": 0, "conaffinity": 0}
    sphere = {"type": mujoco.mjtGeom.mjGEOM_SPHERE, **seen_only}
    lamp = world.add_body(name="lamp", pos=list(layout.lamp))
    lamp.add_geom(name="lamp", size=[0.022, 0, 0], rgba=[0.35, 0.33, 0.28, 1], **sphere)
    lamp.add_geom(
        name="lamp_foot", type=CYLINDER, size=[0.012, 0.012, 0], pos=[0, 0, -0.033], rgba=DARK, contype=0, conaffinity=0
    )
    lit = world.add_body(name="lamp_lit", mocap=True, pos=[layout.lamp[0], layout.lamp[1], -0.3])
    lit.add_geom(name="lamp_lit", size=[0.0235, 0, 0], rgba=[1.0, 0.95, 0.35, 1], **sphere)
