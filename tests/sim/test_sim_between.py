"""Naive, ensembled and real-time chunking in rollouts: when policies are asked, with what; order is nothing."""

import dataclasses

import numpy as np
import pytest
from sim_between_policies import Follower
from sim_shared_policies import tiny_diffusion

from robopolicy.control.between import BetweenConfig, Prefix
from robopolicy.control.latency import LatencyModel
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.inference import InferenceServer, RemotePolicy, Slot
from robopolicy.sim.rollout import rollout
from robopolicy.types import ActionChunk

RUN = {"task": "pick_place", "embodiment": "panda", "split": "test", "max_steps": 30}
RTC = BetweenConfig(kind="rtc")
ENSEMBLE = BetweenConfig(kind="ensemble")


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda")


def run(env, policy, between=None, latency=0.0, steps=30, index=0):
    model = LatencyModel.from_config(latency)
    return run_episode(env, policy, split="test", index=index, control_latency=model, max_steps=steps, between=between)


def test_naive_is_what_is_done_without_a_word(env):
    plain, named = Follower(env), Follower(env)
    assert run(env, plain, latency=100).outcome() == run(env, named, BetweenConfig(), latency=100).outcome()
    assert all(prefix is None for _, prefix in plain.told)
    assert [round(t / 50e6) for t, _ in plain.told] == [0, 8, 16, 24]


def test_rtc_tells_what_will_have_been_executed_and_makes_no_jump(env):
    told, untold = Follower(env), Follower(env)
    held, naive = run(env, told, RTC, latency=100), run(env, untold, latency=100)
    assert [round(t / 50e6) for t, _ in told.told] == [0, 8, 16, 24]
    assert told.told[0][1] is None
    for t0_ns, prefix in told.told[1:]:
        assert prefix.horizon == 2
        assert prefix.t0_ns == t0_ns
        # the first chunk came 2 steps late and is followed 2 steps later, to step 17; later ones by time, 15 long
        assert len(prefix.values) == (9 if t0_ns == 8 * 50_000_000 else 7)
    # its third value, the first that counts, moves away from the path by a step of its own, not by a jump
    assert held.max_seam_jump_m < 0.015
    assert naive.max_seam_jump_m > 1.5 * held.max_seam_jump_m  # control


def test_an_ensemble_is_asked_at_every_step_also_while_answers_are_under_way(env):
    policy = Follower(env)
    result = run(env, policy, ENSEMBLE, latency=150, steps=20)
    assert [round(t / 50e6) for t, _ in policy.told] == list(range(20))
    # observed at steps 0 to 16 and arrived; those of steps 1 and 2 were seen before the arm moved
    assert result.chunks == 15
    every = run(env, Follower(env), BetweenConfig(kind="ensemble", every=4), latency=150, steps=20)
    assert every.chunks == 5
    seams = run(env, Follower(env), latency=150, steps=20)
    assert result.seam_jump_m < seams.seam_jump_m


def test_late_answers_of_an_ensemble_change_nothing_but_the_mean(env):
    """Delays that overtake each other: nothing is refused for its order."""
    spread = {"kind": "normal", "mean_ms": 120, "std_ms": 80}
    result = run(env, Follower(env), ENSEMBLE, latency=spread, steps=30)
    assert result.chunks > 15
    assert env.executor.schedule.refused["out_of_order"] == 0


def test_a_short_horizon_is_asked_about_earlier(env):
    class Short(Follower):
        def act(self, observation, *, rng, prefix=None, goal=None):
            chunk = super().act(observation, rng=rng, prefix=prefix)
            return ActionChunk(chunk.values[:9], chunk.t0_ns, chunk.dt_s, chunk.embodiment, horizon=8)

    def short():
        policy = Short(env)
        policy.spec = dataclasses.replace(policy.spec, prediction_horizon=10)
        return policy

    policy = short()
    result = run(env, policy, RTC, latency=150)
    assert [round(t / 50e6) for t, _ in policy.told] == [0, 6, 12, 18, 24]
    assert result.missing_setpoints == 0
    assert run(env, short(), latency=150).missing_setpoints > 0  # control: asked every Ta steps the schedule runs dry


@pytest.mark.parametrize("between", [RTC, ENSEMBLE])
def test_results_do_not_depend_on_workers_or_order(between):
    settings = {**RUN, "between": between, "latency": 100}
    alone = [r.outcome() for r in rollout(Follower, episodes=[0, 1], inference="here", **settings)]
    two = [r.outcome() for r in rollout(Follower, episodes=[1, 0], workers=2, **settings)]
    assert alone == two
    assert all(r["chunks"] >= 3 for r in alone)


def test_a_shared_policy_answers_with_prefixes_whatever_the_order():
    settings = {**RUN, "latency": 100, "inference": "shared", "inference_batch": 3}
    own = [r.outcome() for r in rollout(Follower, episodes=[0, 1], inference="here", **RUN, between=RTC, latency=100)]
    said = []
    two = rollout(Follower, episodes=[1, 0], workers=2, between=RTC, served=said.append, **settings)
    assert own == [r.outcome() for r in two]
    assert said == ["shared, passes of 3"]
    naive = rollout(Follower, episodes=[0, 1], inference="here", **RUN, latency=100)
    assert own != [r.outcome() for r in naive]  # control: the prefixes have arrived


def test_requests_with_and_without_a_prefix_are_passed_apart(env):
    """A real network: a row with a prefix is the same beside any other request, and is what it is alone."""
    policy = tiny_diffusion(env)
    env.reset(options={"split": "test", "index": 0})
    frame = env.frame()
    seen = env.observe([dataclasses.replace(frame, time_ns=frame.time_ns - 50_000_000), frame])
    card, asked, found = env.embodiment, [], {}
    rows = np.repeat(frame.state[None].astype(float), 6, axis=0)
    prefix = Prefix(rows, frame.time_ns, card.control_dt_s, card.hash, horizon=2)
    slots = [Slot(1 << 20) for _ in range(3)]
    for slot, told in zip(slots, (None, prefix, None), strict=True):
        with pytest.raises(LookupError) as caught:
            RemotePolicy(policy.spec, slot, _raise).act(seen, rng=4, prefix=told)
        asked.append((slot, caught.value.args[0]))
    for chosen in ([0, 1, 2], [1], [0], [2, 1]):
        server = InferenceServer(policy, 2)
        answers = server.answer([asked[i] for i in chosen])
        assert all(answer.problem is None for answer in answers), answers
        for i, answer in zip(chosen, answers, strict=True):
            values = slots[i].get(ActionChunk, answer.chunk).values
            assert np.array_equal(found.setdefault(i, values), values)
            with pytest.raises(LookupError) as caught:  # the answer lies where the question lay: ask again
                RemotePolicy(policy.spec, slots[i], _raise).act(seen, rng=4, prefix=prefix if i == 1 else None)
            asked[i] = (slots[i], caught.value.args[0])
    assert np.array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1], atol=1e-3)
    np.testing.assert_allclose(found[1], policy.act(seen, rng=4, prefix=prefix).values, atol=1e-4)


def _raise(question):
    raise LookupError(question)


def test_guidance_holds_the_old_chunk_and_leaves_the_tail(env):
    """A real denoising policy: the values that are fixed come nearer to the old ones, by as much as beta allows."""
    policy = tiny_diffusion(env)
    env.reset(options={"split": "test", "index": 0})
    frame = env.frame()
    seen = env.observe([dataclasses.replace(frame, time_ns=frame.time_ns - 50_000_000), frame])
    free = policy.act(seen, rng=1).values
    old = policy.act(seen, rng=2).values
    card = env.embodiment
    off = {}
    for strongest, jacobian in ((0.0, "network"), (5.0, "network"), (50.0, "identity")):
        way = {"horizon": 3, "strongest": strongest, "jacobian": jacobian}
        prefix = Prefix(old[:3], int(seen.time_ns[-1]), card.control_dt_s, card.hash, **way)
        found = policy.act(seen, rng=1, prefix=prefix).values
        off[strongest] = np.abs(found - old)[:3].mean(), np.abs(found - free)[6:].mean()
    assert off[0.0][0] == pytest.approx(np.abs(free - old)[:3].mean(), rel=1e-3)  # control: no guidance
    assert off[0.0][1] < 1e-4
    assert off[5.0][0] < 0.9 * off[0.0][0]
    assert off[50.0][0] < 0.1 * off[0.0][0]
    assert off[50.0][1] < 0.5 * np.abs(old - free)[6:].mean()


@pytest.mark.parametrize("controller", ["ee_delta", "joint_delta", "joint_position", "ee_stiffness"])
def test_a_derived_card_is_told_in_its_own_channels(controller):
    """What is scheduled, submitted again as it was told, changes nothing of the path."""
    env = Env("pick_place", "panda", controller=controller)
    env.reset(options={"split": "test", "index": 0})
    card = env.card
    start = env.commanded()
    targets = np.repeat(env.frame().state[None].astype(float), 15, axis=0)
    targets[:, 0] += 0.003 * np.arange(1, 16)
    values = env.controller.from_native(targets, start)
    env.submit(ActionChunk(values, 0, card.control_dt_s, card.hash))
    for _ in range(4 * env.ticks_per_step):
        env.servo(env.tick().setpoint.position)
    env.frame()  # where the command of this observation is noted
    now_ns = env.now_ns
    before = env.executor.scheduled(now_ns).values
    told = env.scheduled(now_ns, 100_000_000)
    assert (told.embodiment, told.horizon, told.values.shape[1]) == (card.hash, 2, len(card.action))
    assert env.submit(told).accepted
    np.testing.assert_allclose(env.executor.scheduled(now_ns).values, before, atol=2e-4)
