"""Tasks ``open_door`` and ``open_drawer``: their experts, and what counts as open."""

import pytest
from sim_expert_runs import Changed, jaw_open, time_when_left

from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.noise import ActionNoise

ARMS = ("panda", "ur5e_2f85", "xarm7")


@pytest.fixture(scope="module", params=["door", "drawer"])
def part(request):
    return request.param


@pytest.fixture(scope="module")
def env(part):
    return Env(f"open_{part}", "panda")


@pytest.mark.parametrize("name", ARMS)
def test_expert_opens_with_and_without_noise(part, name):
    env = Env(f"open_{part}", name)
    expert, noise = env.task.expert(env), ActionNoise(position_m=0.004)
    clean = [run_episode(env, expert, split="val", index=i) for i in range(4)]
    noisy = [run_episode(env, expert, split="val", index=i, perturb=noise.on(env.embodiment)) for i in range(4)]
    assert all(r.success_at_end for r in clean + noisy)
    assert all(r.length < 80 for r in clean)
    assert max(r.peak_force_n for r in clean) < 40


def test_it_needs_its_jaw(env):
    open_jaw = Changed(env.task.expert(env), jaw_open)
    results = [run_episode(env, open_jaw, split="val", index=i, max_steps=90) for i in range(3)]
    assert not any(r.success_instant for r in results)


def test_success_is_far_enough_for_half_a_second(part, env):
    enough, too_little = {"door": (0.605, 0.595), "drawer": (0.151, 0.149)}[part]
    assert time_when_left(env, part, enough) == pytest.approx(0.5)
    assert time_when_left(env, part, too_little) is None
    assert time_when_left(env, part, enough, seconds=0.49) is None


def test_goal_opens_it(part, env):
    env.reset(options={"index": 0})
    assert not env.task.success(env.data)
    goal = env.task.goal(env.data)
    env.task.show_goal(env.data)
    assert env.task.success(env.data)
    assert env.data.joint(part).qpos[0] == pytest.approx(goal[0])
