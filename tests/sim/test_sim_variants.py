"""Variants: what they change, that they are drawn per episode, and that nothing of them stays."""

import dataclasses

import mujoco
import numpy as np
import pytest

from robopolicy.errors import ConfigError, SimulationError, UnknownNameError
from robopolicy.registry import registry
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.variants import Variant, Variation, load_variant


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda", cameras=("front",))


def trace(env, index=5, variant="nominal", steps=30):
    """Everything that a short episode of the expert shows and does."""
    env.reset(options={"split": "val", "index": index, "variant": variant})
    expert = env.task.expert(env)
    run_episode(env, expert, split="val", index=index, max_steps=steps)
    frame = env.frame()
    return frame.state, frame.environment_state, frame.image["front"], env.data.qpos.copy(), env.data.qvel.copy()


def test_the_levels_are_registered_and_each_is_further_off():
    assert registry("variant").names() == ["heavy", "nominal", "shifted"]
    nominal, shifted, heavy = (load_variant(name) for name in ("nominal", "shifted", "heavy"))
    assert nominal == Variant()
    for field in dataclasses.fields(Variant):
        values = [getattr(v, field.name) for v in (nominal, shifted, heavy)]
        if field.name == "name":
            continue
        spans = [v[1] - v[0] if isinstance(v, tuple) else v for v in values]
        assert spans[0] == 0 < spans[1] <= spans[2], field.name


def test_nominal_after_heavy_is_nominal_before_to_the_bit(env):
    model = env.model
    before = trace(env)
    fields = {name: np.array(getattr(model, name)) for name in dir(model) if _is_array(model, name)}
    heavy = trace(env, variant="heavy")
    changed = {name for name, value in fields.items() if not np.array_equal(value, getattr(model, name))}
    assert {"cam_pos", "cam_fovy", "light_diffuse", "geom_friction", "body_mass", "geom_rgba"} <= changed
    after = trace(env)
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a, b)
    assert [name for name, value in fields.items() if not np.array_equal(value, getattr(model, name))] == []
    for a, b in zip(before, heavy, strict=True):
        assert not np.array_equal(a, b), "control: the heavy episode was another one"
    fresh = trace(Env("pick_place", "panda", cameras=("front",)))
    for a, b in zip(before, fresh, strict=True):
        assert np.array_equal(a, b)


def _is_array(model, name):
    return not name.startswith("_") and isinstance(getattr(model, name, None), np.ndarray)


def test_nothing_is_compiled_again_and_the_start_is_the_same(env):
    model, scene, renderer = env.model, env.scene, env._eyes
    starts = {}
    for variant in ("nominal", "shifted", "heavy"):
        _, info = env.reset(options={"split": "val", "index": 7, "variant": variant})
        starts[variant] = (info["initial_state"], env.data.qpos.copy())
        assert ("variation" in info) == (variant != "nominal")
    assert env.model is model
    assert env.scene is scene
    assert env._eyes is renderer
    assert starts["nominal"][0] == starts["shifted"][0] == starts["heavy"][0], "episodes stay paired"
    assert np.array_equal(starts["nominal"][1], starts["heavy"][1])
    env.reset(options={"variant": "nominal", "index": 0})


def test_an_episode_depends_on_its_words_only(env):
    def drawn(index, variant="heavy"):
        env.reset(options={"split": "val", "index": index, "variant": variant})
        return env.variation["variation"], env.frame().state.copy(), env.frame().image["front"].copy()

    first, other, again, shifted = drawn(3), drawn(4), drawn(3), drawn(3, "shifted")
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert np.array_equal(first[2], again[2])
    assert first[0] != other[0]
    assert first[0] != shifted[0]
    env.reset(options={"variant": "nominal", "index": 0})
    assert env.variation == {}


def of(**parts):
    """An environment with one thing off."""
    return Env("pick_place", "panda", cameras=("front",), variant=Variant("one", **parts))


def test_joint_noise_is_of_the_observation_and_consistent_with_the_pose():
    clean, noisy = Env("pick_place", "panda"), of(joint_noise_rad=0.01, joint_bias_rad=0.02)
    offsets = []
    for index in range(12):
        for env in (clean, noisy):
            env.reset(options={"index": index})
        frame = noisy.frame()
        assert np.array_equal(noisy.robot_state().position, clean.robot_state().position), "the executor's stays clean"
        assert frame.state[:3] == pytest.approx(noisy.kinematics.tcp_state(frame.joint_position)[:3], abs=1e-5)
        rows = []
        for _ in range(5):
            noisy.servo(noisy.start_position)
            rows.append(noisy.frame().joint_position - noisy.robot_state().position)
        offsets.append(rows)
    offsets = np.array(offsets)[..., :7]
    assert offsets.std(axis=1).mean() == pytest.approx(0.01, rel=0.25)
    assert offsets.mean(axis=1).std() == pytest.approx(0.02, rel=0.25)


def test_privileged_positions_are_off_and_angles_by_their_own_amount():
    env, clean = (
        of(environment_noise_m=0.001, environment_bias_m=0.01, environment_noise=0.1),
        Env("pick_place", "panda"),
    )
    gaps = []
    for index in range(60):
        for each in (env, clean):
            each.reset(options={"index": index})
        gaps.append(env.frame().environment_state - clean.frame().environment_state)
    spread = dict(zip(clean.task.environment_state_names, np.std(gaps, axis=0), strict=True))
    assert spread["cube_position.x"] == pytest.approx(0.01, rel=0.3)
    assert spread["cube_yaw.cos4"] == pytest.approx(0.1, rel=0.3)
    assert np.array_equal(env.frame().environment_state, env.frame().environment_state), "of the instant, not the call"


def test_latency_is_added_to_every_chunk():
    env = of(latency_ms=20.0, latency_jitter_ms=3.0)
    result = run_episode(env, env.task.expert(env), split="val", index=0, max_steps=20)
    assert 18 < result.latency_ms < 22
    env.reset(options={"index": 0})
    drawn = np.array([env.extra_latency_ns(i) for i in range(300)]) / 1e6
    assert drawn.std() == pytest.approx(3.0, rel=0.2)
    assert env.extra_latency_ns(3) == env.extra_latency_ns(3)
    rare = of(latency_ms=1.0, latency_jitter_ms=30.0)
    assert min(rare.extra_latency_ns(i) for i in range(50)) == 0, "never negative"
    assert Env("pick_place", "panda").extra_latency_ns(0) == 0


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"light_intensity": (0.5, 0.6)}, "light_diffuse"),
        ({"light_tilt_rad": 0.5}, "light_dir"),
        ({"camera_position_m": 0.03}, "cam_pos"),
        ({"camera_rotation_rad": 0.05}, "cam_quat"),
        ({"camera_fovy_deg": 5.0}, "cam_fovy"),
        ({"table_colour": 0.4}, "geom_rgba"),
    ],
)
def test_pictures_change_with_what_they_show(parts, field):
    env, clean = of(**parts), Env("pick_place", "panda", cameras=("front",))
    for each in (env, clean):
        each.reset(options={"index": 2})
    assert not np.array_equal(getattr(env.model, field), getattr(clean.model, field))
    assert not np.array_equal(env.frame().image["front"], clean.frame().image["front"])
    assert np.array_equal(env.frame().state, clean.frame().state)
    assert np.array_equal(env.data.qpos, clean.data.qpos)


def test_darker_light_makes_darker_pictures():
    dark, clean = of(light_intensity=(0.5, 0.5)), Env("pick_place", "panda", cameras=("front",))
    for each in (dark, clean):
        each.reset(options={"index": 2})
    assert dark.frame().image["front"].mean() < 0.7 * clean.frame().image["front"].mean()


def test_a_heavier_object_weighs_more_and_the_model_agrees_with_a_compiled_one():
    env, clean = of(mass=(2.0, 2.0), friction=(0.5, 0.5)), Env("pick_place", "panda")
    env.reset(options={"index": 0})
    clean.reset(options={"index": 0})
    cube = env.model.body("cube").id
    assert env.model.body_mass[cube] == pytest.approx(2 * clean.model.body_mass[cube])
    assert env.variation["variation"]["mass.cube"] == 2.0
    rebuilt = clean.model
    rebuilt.body_mass[cube] *= 2
    rebuilt.body_inertia[cube] *= 2
    mujoco.mj_setConst(rebuilt, mujoco.MjData(rebuilt))
    for field in ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        assert np.allclose(getattr(env.model, field), getattr(rebuilt, field), rtol=1e-6, atol=1e-12), field
    assert np.allclose(env.model.geom_friction, 0.5 * rebuilt.geom_friction)


def test_refusals(env):
    with pytest.raises(UnknownNameError, match="did you mean 'shifted'"):
        Env("pick_place", "panda", variant="shiftd")
    with pytest.raises(ConfigError, match="range of factors"):
        Variant(friction=(0.0, 1.0))
    with pytest.raises(ConfigError, match="latency_ms"):
        Variant(latency_ms=-1.0)
    with pytest.raises(SimulationError, match="variant"):
        env.reset(options={"varaint": "heavy"})
    assert Variation(env.scene, env.task.environment_state_names).active is False
