"""Policies that read a picture of the goal are shown that of their own episode, drawn once when it begins."""

import dataclasses

import numpy as np
import pytest
from sim_policies import Wander
from sim_shared_policies import BatchWander

from robopolicy.errors import SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.inference import InferenceServer, RemotePolicy, Slot, row_independent
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.pick_place import PickPlace


class Wanting(Wander):
    """Wanders; reads the goal's picture from two cameras, one of which it also sees."""

    cameras = ("front",)

    def __init__(self, env):
        super().__init__(env)
        self.spec = dataclasses.replace(self.spec, goal_cameras=("wrist", "front"))


class BatchWanting(BatchWander):
    """The same for several at once."""

    def __init__(self, env):
        super().__init__(env)
        self.spec = dataclasses.replace(self.spec, goal_cameras=("front",))


@pytest.fixture(scope="module")
def env():
    found = Env("play", "panda", split="val")
    yield found
    found.close()


def pictures(env, index):
    env.reset(options={"split": "val", "index": index})
    return {name: env.goal_image(name) for name in ("wrist", "front")}


def test_the_picture_is_that_of_the_episode(env, monkeypatch):
    wanted = {index: pictures(env, index) for index in (3, 4)}
    drawn = []
    original = Env.goal_image
    monkeypatch.setattr(Env, "goal_image", lambda self, name: drawn.append(name) or original(self, name))
    for index, other in ((3, 4), (4, 3)):
        policy = Wanting(env)
        run_episode(env, policy, split="val", index=index, max_steps=18)
        assert len(policy.seen) == 3
        for seen in policy.seen:
            assert seen.goal_image.keys() == {"wrist", "front"}
            for name, picture in seen.goal_image.items():
                assert (picture.shape, picture.dtype) == ((96, 96, 3), np.uint8)
                assert np.array_equal(picture, wanted[index][name])
            assert not np.array_equal(seen.goal_image["front"], wanted[other]["front"])  # control
            assert seen.image.keys() == {"front"}
    assert drawn == ["wrist", "front"] * 2  # once per episode, however often the policy was asked


def test_nothing_is_drawn_for_others(env, monkeypatch):
    monkeypatch.setattr(Env, "goal_image", lambda *_: pytest.fail("nobody asked for a picture"))
    policy = Wander(env)
    run_episode(env, policy, split="val", index=3, max_steps=2)
    assert policy.seen[0].goal_image == {}


def test_looking_at_the_goal_changes_no_episode(env):
    plain, wanting = (run_episode(env, made(env), split="val", index=5, max_steps=20) for made in (Wander, Wanting))
    assert plain.outcome() == wanting.outcome()


def test_the_picture_travels_to_a_shared_policy(env):
    policy, slot = BatchWanting(env), Slot(1 << 22)
    server = InferenceServer(policy, 2)
    remote = RemotePolicy(policy.spec, slot, lambda question: server.answer([(slot, question)])[0])
    run_episode(env, remote, split="val", index=4, max_steps=2)
    seen = next(s for s in policy.seen if np.array_equal(s.goal_image["front"], pictures(env, 4)["front"]))
    assert not np.array_equal(seen.goal_image["front"], pictures(env, 3)["front"])  # control
    # the trial before the first pass makes pictures of goals up too
    tried = len(policy.seen)
    assert row_independent(policy, seen, 2)
    made = policy.seen[tried:]
    assert len({s.goal_image["front"].tobytes() for s in made}) > 1
    assert all(s.goal_image["front"].shape == (96, 96, 3) for s in made)


def test_a_task_without_a_picture_says_so():
    class Plain(PickPlace):
        show_goal = BaseTask.show_goal

    env = Env(Plain(), "panda")
    with pytest.raises(SimulationError, match="has no picture of its goal"):
        run_episode(env, Wanting(env), split="val", index=0, max_steps=2)
