"""Latencies from a recording, consent on hardware, and the small turn that the lag of the motion is measured with."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from blackbox_rig import CARD, CONFIG, TICK, TapedRig

from robopolicy.control.kinematics import Kinematics
from robopolicy.control.latency import LatencyModel
from robopolicy.data.convert.blackbox_log import BlackBoxLog, sessions
from robopolicy.deploy import calibrate as module
from robopolicy.deploy.calibrate import USES, calibrate, decision_latencies, motion_lag, require_consent
from robopolicy.deploy.calibrate_motion import AMPLITUDE_RAD, turn
from robopolicy.deploy.config import robot_config
from robopolicy.errors import DeployError
from robopolicy.rotations import geodesic_distance, rotation_6d_to_matrix
from robopolicy.types import Observation

TICK_MS = TICK / 1e6


def recording(folder, chunks=8):
    with TapedRig(folder) as rig:
        rig.up().run(chunks)
        rig.do("stop")
        rig.step(60)
    return BlackBoxLog(sessions(folder)[-1])


def test_every_delay_is_found_in_the_recording(tmp_path):
    # the rig's observation is two ticks old when it puts a chunk, inference takes one, the next tick picks it up
    found = decision_latencies(recording(tmp_path))
    assert set(found) < set(USES)
    np.testing.assert_allclose(found["inference_ms"], TICK_MS)
    np.testing.assert_allclose(found["sensor_to_worker_ms"], TICK_MS)
    np.testing.assert_allclose(found["chunk_to_setpoint_ms"], TICK_MS)
    np.testing.assert_allclose(found["observation_to_setpoint_ms"], 3 * TICK_MS)
    np.testing.assert_allclose(found["setpoint_lead_ms"], CONFIG.deploy.lookahead_ticks * TICK_MS)


def test_the_file_names_each_figure_and_feeds_eval(tmp_path, monkeypatch):
    log = recording(tmp_path / "run")
    asked = []

    def recorded(config, out, seconds):
        asked.append(config)
        return log

    monkeypatch.setattr(module, "_recorded", recorded)
    calibrate(CONFIG, tmp_path, seconds=1.0, move=True)
    dry, moving = asked
    assert dry.deploy.dry_run
    assert not moving.deploy.dry_run
    assert moving.policy == module.MOTION
    written = json.loads((tmp_path / "latency.json").read_text())
    assert set(written["used_by"]) <= set(written)
    model = LatencyModel(**written["latency_ms"])
    assert model.sample_ns(np.random.default_rng(0)) == pytest.approx(3 * TICK)
    calibrate(CONFIG, tmp_path, seconds=1.0, move=False)
    assert len(asked) == 3  # nothing moved
    assert json.loads((tmp_path / "latency.json").read_text())["setpoint_to_motion_ms"] is None


def test_hardware_is_not_moved_without_consent():
    hardware = dataclasses.replace(CONFIG, robot=dataclasses.replace(CONFIG.robot, process=""))
    with pytest.raises(DeployError, match=r"real robot.*move=true"):
        require_consent(hardware, None)
    assert require_consent(hardware, True)
    assert not require_consent(hardware, False)
    simulated = dataclasses.replace(CONFIG, robot=robot_config("sim_panda"))
    assert require_consent(simulated, None)


def test_a_recording_without_motion_says_so(tmp_path):
    with TapedRig(tmp_path) as rig:
        rig.up()
        rig.step(120)
    log = BlackBoxLog(sessions(tmp_path)[-1])
    with pytest.raises(DeployError, match="no chunk"):
        decision_latencies(log)
    with pytest.raises(DeployError, match="nothing moved"):
        motion_lag(log)


def test_the_turn_is_small_begins_at_rest_and_keeps_the_point():
    policy = turn(CARD)
    start = np.asarray(Kinematics(CARD).tcp_state(CARD.home_position), float)
    rotation, position = CARD.action.select("ee_rotation"), CARD.action.select("ee_position")
    values = []
    for second in range(8):
        now = 10**12 + second * 500_000_000
        observation = Observation(start[None].astype(np.float32), np.array([now]), CARD.hash)
        chunk = policy.act(observation, rng=None)
        values.append(chunk.values[: round(0.5 / CARD.control_dt_s)])
    path = np.concatenate(values)
    np.testing.assert_allclose(path[:, position], np.repeat(start[None, position], len(path), axis=0), atol=1e-6)
    matrices = rotation_6d_to_matrix(path[:, rotation])
    angles = np.array(
        [geodesic_distance(matrices[0] * 0 + rotation_6d_to_matrix(start[rotation]), m) for m in matrices]
    )
    assert 0.8 * AMPLITUDE_RAD < angles.max() < 1.01 * AMPLITUDE_RAD
    steps = np.array([geodesic_distance(a, b) for a, b in pairwise(matrices)])
    assert steps[0] / CARD.control_dt_s < 0.05
    assert (steps / CARD.control_dt_s).max() < 0.2


def test_the_turn_goes_through_executor_and_limiter_all_but_untouched(tmp_path):
    policy = turn(CARD)
    kinematics = Kinematics(CARD)
    with TapedRig(tmp_path) as rig:
        rig.up()
        rig.do("start")
        for call in range(16):
            now = rig.clock.now_ns()
            state = np.asarray(kinematics.tcp_state(rig.driver.position), np.float32)
            chunk = policy.act(Observation(state[None], np.array([now]), CARD.hash), rng=None)
            rig.bus.mailbox.put(chunk, epoch=rig.arm.epoch, obs_id=call, t_made_ns=now)
            rig.step(round(0.5e9 / TICK))
        rig.do("stop")
        rig.step(60)
    log = BlackBoxLog(sessions(tmp_path)[-1])
    states = log.records("/binary/state")
    # the arm stands a measurement's noise beside what it was told; only the first ticks make up for that
    assert states["clipped"].sum() < 10
    assert not states["clipped"][40:].any()
    lag = motion_lag(log)
    assert "joint7" in lag["joints"]
    assert lag["max"] < 200
