"""What every task has to keep, on every robot that it is offered on; read from the registry, new tasks included."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import Chunks, ChunksAgain

from robopolicy.registry import registry
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.registration import offered_embodiments, simulated_embodiments
from robopolicy.sim.task import Task, load_task
from robopolicy.subject import BaselinePolicy

PAIRS = [(task, robot) for task in registry("task").names() for robot in offered_embodiments(task)]
EXPERT_MAY_FAIL = {"in_hand_rotate"}
"""Tasks whose expert is not asked for more than four episodes out of five."""


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(pair))
def env(request):
    env = Env(*request.param)
    yield env
    env.close()


def begin(env, index, split="val"):
    """Everything that an episode begins with, as plain values."""
    env.reset(options={"split": split, "index": index})
    frame, data = env.frame(), env.data
    numbers = (data.qpos, data.qvel, data.ctrl, data.mocap_pos, data.mocap_quat, frame.state, frame.environment_state)
    goal = env.task.goal(data)
    return (dict(env.initial_state), env.task.language(), goal.tobytes(), *(n.tobytes() for n in numbers))


def copy(env):
    """The state of the episode, for something that shall not change it."""
    data = mujoco.MjData(env.model)
    data.qpos[:], data.qvel[:] = env.data.qpos, env.data.qvel
    data.mocap_pos[:], data.mocap_quat[:] = env.data.mocap_pos, env.data.mocap_quat
    return data


def show_goal(env):
    """A copy of the state with the goal reached."""
    shown = copy(env)
    env.task.show_goal(shown)
    mujoco.mj_forward(env.model, shown)
    return shown


def test_every_robot_it_is_offered_on_can_be_simulated():
    unknown = {robot for _, robot in PAIRS} - set(simulated_embodiments())
    assert not unknown
    assert len({task for task, _ in PAIRS}) >= 4


def test_protocol_names_and_widths(env):
    task = env.task
    assert isinstance(task, Task)
    assert task.name in registry("task").names()
    assert task.horizon > 0
    assert task.hold_s >= 0
    env.reset(options={"split": "val", "index": 0})
    for names, values in (
        (task.environment_state_names, task.observe(env.data)),
        (task.goal_names, task.goal(env.data)),
    ):
        assert values.dtype == np.float32
        assert values.shape == (len(names),)
        assert len(set(names)) == len(names)
        assert np.isfinite(values).all()
    assert task.environment_state_names
    assert task.goal_names
    assert all(isinstance(v, float) and np.isfinite(v) for v in env.initial_state.values())
    assert all(np.isfinite(list(task.metrics().values())))


def test_an_episode_is_a_function_of_its_index(env):
    first = [begin(env, i) for i in (3, 5)]
    other = Env(load_task(env.task.name, env.embodiment.name), env.embodiment)
    again = [begin(other, i) for i in (5, 3)]
    # what happened before must not show: half a second of another episode
    for _ in range(50):
        env.servo(env.start_position)
    show_goal(env)
    assert first == [begin(env, i) for i in (3, 5)]
    assert first == again[::-1]
    # control: another index or another split is another episode
    assert first[0] != first[1]
    assert begin(env, 3, "train")[0] != first[0][0]


def test_no_episode_begins_done(env):
    starts = set()
    for index in range(20):
        env.reset(options={"split": "val", "index": index})
        assert not env.task.success(env.data), index
        assert env.task.failure(env.data) is None, index
        assert np.isfinite(env.task.observe(env.data)).all(), index
        starts.add(tuple(env.initial_state.values()))
    assert len(starts) == 20


def test_objects_rest_where_they_are_put(env):
    """A second of holding still: nothing flies, falls through or creeps away; the task is not done by itself."""
    model, data = env.model, env.data
    free = [i for i in range(model.njnt) if model.jnt_type[i] == mujoco.mjtJoint.mjJNT_FREE]
    at = [slice(model.jnt_qposadr[i], model.jnt_qposadr[i] + 3) for i in free]
    speed = [slice(model.jnt_dofadr[i], model.jnt_dofadr[i] + 6) for i in free]
    for index in range(3):
        env.reset(options={"split": "val", "index": index})
        before = [data.qpos[where].copy() for where in at]
        for _ in range(round(env.embodiment.setpoint_hz)):
            env.servo(env.start_position)
        assert not env.success()
        assert env.failure is None
        for where, place, rate in zip(at, before, speed, strict=True):
            assert np.linalg.norm(data.qpos[where] - place) < 0.01
            assert np.abs(data.qvel[rate]).max() < 0.05


def test_goal_picture_and_words(env):
    task = env.task
    for index in range(3):
        env.reset(options={"split": "val", "index": index})
        words, goal, shown = task.language(), task.goal(env.data).copy(), show_goal(env)
        assert np.isfinite(task.observe(shown)).all()
        moved = [not np.array_equal(getattr(shown, of), getattr(env.data, of)) for of in ("qpos", "mocap_pos")]
        assert any(moved), "the picture of the goal shows the start"
        # showing the goal changes neither the goal nor the words of the episode
        assert task.language() == words
        assert np.array_equal(task.goal(env.data), goal)
        assert 3 < len(words) < 200
        assert words == words.strip()


def test_expert_solves_and_null_does_not(env):
    expert, solved, kept = env.task.expert(env), 0, None
    assert expert.spec.embodiment.hash == env.embodiment.hash
    for index in range(2):
        recorder = Chunks()
        result = run_episode(env, expert, split="val", index=index, record=recorder)
        assert all(chunk is not None for chunk in recorder.chunks), "a demonstration needs an action per control step"
        solved += result.success_at_end
        if result.success_at_end:
            kept = (result, recorder.chunks)
    assert solved >= (1 if env.task.name in EXPERT_MAY_FAIL else 2)
    null = run_episode(env, BaselinePolicy("null")(env), split="val", index=0)
    assert not null.success_once
    # the same setpoints are the same episode; nothing but them decides it
    result, chunks = kept
    again = run_episode(env, ChunksAgain(env.embodiment, chunks), split="val", index=result.index)
    assert (again.success_at_end, again.length) == (True, result.length)
    # control: backwards they are of no use
    backwards = ChunksAgain(env.embodiment, chunks[::-1])
    assert not run_episode(env, backwards, split="val", index=result.index, max_steps=result.length).success_once
