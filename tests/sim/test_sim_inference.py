"""Shared inference: arrays by shared memory, batches that change no bit, failures that are told."""

import dataclasses
import multiprocessing

import numpy as np
import pytest
from sim_policies import Crash, Seeing, Wander
from sim_shared_policies import BatchWander, Neighbourly, tiny_diffusion

from robopolicy.errors import ConfigError, SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.inference import InferenceServer, RemotePolicy, Slot, row_independent
from robopolicy.sim.rollout import rollout
from robopolicy.types import ActionChunk, Observation

RUN = {"task": "pick_place", "embodiment": "panda", "split": "test", "max_steps": 20}


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda")


def observation(env, seed):
    draw = np.random.default_rng(seed)
    env.reset(options={"index": seed})
    seen = env.observe([env.frame(), dataclasses.replace(env.frame(), time_ns=50_000_000)])
    return dataclasses.replace(seen, state=(seen.state + draw.normal(0, 0.01, seen.state.shape)).astype(np.float32))


def outcomes(results):
    return [r.outcome() for r in results]


def test_arrays_come_back_from_a_slot_bit_for_bit(env):
    slot, seen = Slot(1 << 20), observation(env, 0)
    seen = dataclasses.replace(seen, image={"a": np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)})
    back = slot.get(Observation, slot.put(seen))
    for item in dataclasses.fields(seen):
        mine, theirs = getattr(seen, item.name), getattr(back, item.name)
        if item.name == "image":
            assert list(theirs) == ["a"]
            mine, theirs = mine["a"], theirs["a"]
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)
        else:
            assert mine == theirs
    chunk = ActionChunk(np.random.default_rng(0).normal(size=(15, 10)), 7, 0.05, "x", horizon=8)
    again = slot.get(ActionChunk, slot.put(chunk))
    assert np.array_equal(again.values, chunk.values)
    assert (again.t0_ns, again.horizon, again.embodiment) == (7, 8, "x")
    with pytest.raises(SimulationError, match="does not fit"):
        Slot(4096).put(dataclasses.replace(seen, image={"a": np.zeros((1, 64, 64, 3), np.uint8)}))


def test_nothing_but_numbers_and_words_goes_over_the_pipe(env):
    """Control of the claim that no array is pickled: an array anywhere in what is sent would be found here."""
    sent = []

    def ask(question):
        sent.append(question)
        return InferenceServer(Wander(env), 4).answer([(slot, question)])[0]

    slot = Slot(1 << 20)
    policy = RemotePolicy(Wander(env).spec, slot, ask)
    direct = Wander(env).act(observation(env, 1), rng=np.random.default_rng(5))
    chunk = policy.act(observation(env, 1), rng=np.random.default_rng(5))
    assert np.array_equal(chunk.values, direct.values)

    def arrays(value):
        if dataclasses.is_dataclass(value):
            return any(arrays(getattr(value, f.name)) for f in dataclasses.fields(value))
        if isinstance(value, dict):
            return any(map(arrays, value.values()))
        return isinstance(value, np.ndarray)

    policy.act(observation(env, 1), rng=0, prefix=chunk)
    assert sent[1].prefix is not None
    assert not arrays(sent[0])
    assert not arrays(sent[1])
    assert arrays({"control": np.zeros(1)})
    with pytest.raises(SimulationError, match="inference=worker"):
        policy.act(observation(env, 1), rng=0, goal=np.zeros(2))


def test_a_row_of_a_padded_batch_depends_on_neither_neighbours_nor_place(env):
    policy = tiny_diffusion(env)
    seen = [observation(env, i) for i in range(6)]
    draw = np.random.default_rng(0)
    assert row_independent(policy, seen[0], 8)
    found = {}
    for _ in range(6):
        chosen = draw.integers(0, 6, 8)
        chunks = policy.act_batch([seen[i] for i in chosen], [int(i) for i in chosen])
        for i, chunk in zip(chosen, chunks, strict=True):
            assert np.array_equal(found.setdefault(i, chunk.values), chunk.values)
    one = policy.act_batch(seen[:1], [0])[0]
    assert np.array_equal(one.values, policy.act(seen[0], rng=0).values)
    assert np.allclose(one.values, found[0], atol=1e-4)
    # the noise of a row is its own: another seed beside it changes nothing, its own seed does
    assert not np.array_equal(policy.act_batch(seen, [9, 1, 2, 3, 4, 5])[0].values, found[0])


def test_batches_that_would_change_results_are_not_used(env):
    seen = observation(env, 0)
    assert not row_independent(Neighbourly(env), seen, 4)
    assert row_independent(BatchWander(env), seen, 4)  # control
    slots = [Slot(1 << 20) for _ in range(3)]
    for policy, rows in ((Neighbourly(env), 1), (BatchWander(env), 4)):
        server, together = served(policy, env, slots, [0, 1, 2])
        assert server.rows == rows
        assert server.describe().startswith("shared, one at a time: in passes" if rows == 1 else "shared, passes of 4")
        assert np.array_equal(together[1], served(policy, env, slots, [1])[1][1])


class Asked(Exception):
    """Carries the question that a worker would wait for."""


def served(policy, env, slots, workers):
    """Server, and what it answers to the workers named when all their requests wait at once."""

    def stop(question):
        raise Asked(question)

    server, waiting = InferenceServer(policy, 4), []
    for i in workers:
        with pytest.raises(Asked) as caught:
            RemotePolicy(policy.spec, slots[i], stop).act(observation(env, i), rng=i)
        waiting.append((slots[i], caught.value.args[0]))
    answers = server.answer(waiting)
    return server, {i: slots[i].get(ActionChunk, a.chunk).values for i, a in zip(workers, answers, strict=True)}


def test_shared_results_are_the_same_for_one_two_and_three_workers_and_any_order():
    one = rollout(tiny_diffusion, episodes=range(4), workers=1, inference="shared", inference_batch=4, **RUN)
    two = rollout(tiny_diffusion, episodes=[2, 0, 3, 1], workers=2, inference="shared", inference_batch=4, **RUN)
    three = rollout(tiny_diffusion, episodes=[3, 2, 1, 0], workers=3, inference="shared", inference_batch=4, **RUN)
    assert outcomes(one) == outcomes(two) == outcomes(three)
    assert all(r.inference_ms and r.cpu_s > 0 for r in two)
    assert len({tuple(r.initial_state) for r in two}) == 4
    assert not multiprocessing.active_children()


def test_one_by_one_is_what_workers_compute_by_themselves():
    own = rollout(Wander, episodes=range(2), workers=1, **RUN)
    assert outcomes(own) == outcomes(rollout(Wander, episodes=range(2), workers=2, inference="shared", **RUN))
    assert outcomes(own) == outcomes(rollout(Wander, episodes=range(2), inference="here", **RUN))


def test_pictures_arrive():
    seeing = rollout(Seeing, episodes=[0], workers=1, inference="shared", **RUN)
    assert seeing[0].chunks == 3


def test_a_policy_that_fails_names_the_episode_and_leaves_no_process():
    with pytest.raises(SimulationError, match=r"episode \d.*no such weights"):
        rollout(Crash, episodes=range(3), workers=2, inference="shared", **RUN)
    assert not multiprocessing.active_children()
    with pytest.raises(ConfigError, match="inference"):
        rollout(Wander, inference="sharde", **RUN)
    with pytest.raises(ConfigError, match="inference_batch"):
        rollout(Wander, inference="shared", inference_batch=0, **RUN)
