"""Black boxes as episodes: rows, the action in effect, labels, cut files; the recordings are written by the test."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.control.kinematics import Kinematics
from robopolicy.data.convert.blackbox import FORMAT, BlackBoxOptions
from robopolicy.data.convert.engine import convert
from robopolicy.data.convert.recognise import recognise
from robopolicy.data.store import EpisodeStore
from robopolicy.deploy.blackbox import BlackBoxFile, binary_channel
from robopolicy.deploy.blackbox_json import camera_channel, image_json
from robopolicy.deploy.blackbox_run import describe_run
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.logger import _without_images
from robopolicy.deploy.records import Layout
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError

CARD = load_embodiment("panda")
TICK, STEP = round(CARD.tick_s * 1e9), round(CARD.control_dt_s * 1e9)
START = 7 * 10**12
LEAD = 6 * TICK
CAMERA = CARD.cameras[0].name


def joints_at(t_ns):
    """Where the arm is told to be [J]: smooth, different for every joint."""
    s = (t_ns - START) / 1e9
    swing = 0.2 * np.sin(0.7 * s + np.arange(len(CARD.joints)))
    out = CARD.home_position + swing
    out[CARD.joints.index(CARD.gripper)] = 0.5 + 0.4 * np.sin(s)
    return out


class Writer:
    """A session: spans of states, with setpoints told six ticks early and measurements that lag by one tick."""

    def __init__(self, path, *, frames=True, images=False, session="s", policy="runs/pick"):
        deploy = DeployConfig(blackbox_images="jpeg" if images else "none")
        config = DaemonConfig(policy, RobotConfig(target="x:y", task="pick_place"), deploy, cameras=(CAMERA,) * images)
        self.about = describe_run(config, session=session)
        self.about["wall_minus_monotonic_ns"] = 10**15
        self.file = BlackBoxFile(path, self.about)
        layout = Layout.of(CARD, cameras=(), chunk_steps=4, state_capacity=64)
        self.dtypes = {name: dtype for name, (dtype, _) in layout.rings.items()}
        self.frames, self.images = frames, images
        self.tick, self.t_ns, self.frame = 0, START, 0

    def add(self, name, at_ns, **fields):
        dtype = _without_images(self.dtypes["frames"]) if name == "frame" else self.dtypes[name]
        record = np.zeros((), dtype)
        for key, value in fields.items():
            record[key] = value
        number = self.frame if name == "frame" else self.tick
        self.file.add(binary_channel(f"/binary/{name}", dtype), at_ns + 10**15, record.tobytes(), number)

    def span(self, state, seconds, *, epoch=1, success_at=None):
        """Ticks in one state, and the frames between them."""
        for k in range(round(seconds * 1e9 / TICK)):
            self.tick += 1
            self.t_ns += TICK
            t = self.t_ns
            reach = t + LEAD
            # a tick later than its setpoint: what the arm does lags
            measured = joints_at(t - TICK)
            self.add(
                "tape",
                t,
                tick=self.tick,
                t_ns=t,
                calls=state.streaming,
                t_setpoint_ns=reach,
                setpoint=joints_at(reach),
                read=1,
                t_robot_ns=t,
                position=measured,
            )
            self.add("state", t, tick=self.tick, t_ns=t, state=int(state), epoch=epoch)
            if self.frames and (t - START) % STEP == 0:
                self.frame += 1
                reached = success_at is not None and k * TICK / 1e9 >= success_at
                tcp = Kinematics(CARD).tcp_state(measured)
                about = {"success": reached, "environment_width": 2, "split": b"test", "index": 3}
                self.add("frame", t, time_ns=t, scene=1, state=tcp, **about)
                if self.images:
                    pixels = np.full((CARD.cameras[0].height, CARD.cameras[0].width, 3), self.frame, np.uint8)
                    log_ns = t + 10**15
                    self.file.add(camera_channel(CAMERA), log_ns, image_json(pixels, CAMERA, log_ns), self.frame)


def written(path, **how):
    """HOLD, RUNNING 3 s (success), STOPPING, RUNNING 2 s (none), too short a RUNNING, HOLD."""
    writer = Writer(path, **how)
    writer.span(State.HOLD, 0.5)
    writer.span(State.RUNNING, 3.0, epoch=2, success_at=2.0)
    writer.span(State.STOPPING, 0.3, epoch=2)
    writer.span(State.RUNNING, 2.0, epoch=3)
    writer.span(State.RUNNING, 0.3, epoch=4)
    writer.span(State.HOLD, 0.5, epoch=4)
    writer.file.close()
    return path


def opened(path, **options):
    return FORMAT.open(path, BlackBoxOptions(**options))


def test_rows_hold_the_action_in_effect_one_step_later(tmp_path):
    path = written(tmp_path / "run.mcap")
    source = opened(path)
    info = source.info
    assert len(info.episodes) == 2
    assert info.fps == CARD.control_hz
    assert info.embodiment.hash == CARD.hash
    kinematics = Kinematics(CARD)
    for name, seconds in zip(info.episodes, (3.0, 2.0), strict=True):
        streams = source.read(name).episode.streams
        times = streams["time_ns"]
        assert abs(len(times) - seconds * CARD.control_hz) <= 1
        assert set(np.diff(times)) == {STEP}
        action = np.stack([kinematics.tcp_state(joints_at(t + STEP)) for t in times])
        np.testing.assert_allclose(streams["action"], action, atol=1e-5)
        state = np.stack([kinematics.tcp_state(joints_at(t - TICK)) for t in times])
        np.testing.assert_allclose(streams["state"], state, atol=1e-5)
        command = np.stack([joints_at(t + STEP) for t in times])
        np.testing.assert_allclose(streams["joint_command"], command, atol=1e-6)
        # control: the setpoint of the row's own time, or the one sent at it, is another action
        for wrong_ns in (0, LEAD):
            wrong = np.stack([kinematics.tcp_state(joints_at(t + wrong_ns)) for t in times])
            assert np.abs(streams["action"] - wrong).max() > 1e-3 or wrong_ns == STEP


def test_success_language_and_where_it_comes_from(tmp_path):
    path = written(tmp_path / "run.mcap")
    source = opened(path, language="pick up the cube")
    first, second = (source.read(name).episode for name in source.info.episodes)
    assert (first.success, second.success) == (True, False)
    assert first.language == "pick up the cube"
    assert first.metadata["source"]["index"] == 3
    assert source.info.provenance["policy"] == "runs/pick"
    assert opened(path, success=True).read(source.info.episodes[1]).episode.success is True
    assert len(opened(path, min_s=0.0).info.episodes) == 3
    unknown = opened(path, only_success=True).read(source.info.episodes[1])
    assert unknown.findings[0].severity == "error"


def test_a_robot_without_frames_gives_rows_from_its_measured_joints(tmp_path):
    source = opened(written(tmp_path / "run.mcap", frames=False))
    reading = source.read(source.info.episodes[0])
    times = reading.episode.streams["time_ns"]
    assert set(np.diff(times)) == {STEP}
    expected = np.stack([Kinematics(CARD).tcp_state(joints_at(t - TICK)) for t in times])
    np.testing.assert_allclose(reading.episode.streams["state"], expected, atol=1e-4)
    assert reading.episode.success is None
    assert source.info.environment_state == ()
    assert any(f.kind == "no_frames" for f in source.info.findings)


def test_a_folder_becomes_a_store_and_is_recognised(tmp_path):
    folder = tmp_path / "deploy" / "blackbox"
    folder.mkdir(parents=True)
    written(folder / "20200101T000000-1-0000.mcap", session="a")
    written(folder / "20200102T000000-2-0000.mcap", session="b")
    written(folder / "fault-20200102T000000-2-0000.mcap", session="b")
    assert recognise(tmp_path / "deploy") == "blackbox"
    assert recognise(folder / "20200101T000000-1-0000.mcap") == "blackbox"
    convert(tmp_path / "deploy", tmp_path / "out.zarr", format="auto")
    store = EpisodeStore.open(tmp_path / "out.zarr")
    assert store.num_episodes == 4  # two sessions; the dump of a fault repeats and is left out
    assert store.embodiment.hash == CARD.hash
    assert [store.info(i)["success"] for i in range(4)] == [True, False, True, False]


def test_images_come_as_they_were_recorded(tmp_path):
    source = opened(written(tmp_path / "run.mcap", images=True))
    assert source.info.cameras == {CAMERA: (CARD.cameras[0].height, CARD.cameras[0].width)}
    frames = source.read(source.info.episodes[0]).episode.streams[f"image/{CAMERA}"]
    from robopolicy.data.codecs import decode_jpeg

    out = np.zeros(frames.frame, np.uint8)
    values = []
    for blob in frames.blobs[:3]:
        decode_jpeg(blob, out)
        values.append(int(np.median(out)))
    assert values == [values[0], values[0] + 1, values[0] + 2]


def test_a_cut_file_gives_what_is_there_and_says_so(tmp_path):
    writer = Writer(tmp_path / "run.mcap")
    writer.span(State.RUNNING, 2.0)
    writer.file.flush()
    flushed = writer.file.size
    writer.span(State.RUNNING, 2.0)
    writer.file.flush()
    writer.file.abandon()
    whole = (tmp_path / "run.mcap").read_bytes()
    (tmp_path / "run.mcap").write_bytes(whole[: flushed + 3000])
    source = opened(tmp_path / "run.mcap")
    reading = source.read(source.info.episodes[0])
    assert any(f.kind == "cut_file" for f in source.info.findings)
    assert 1.5 * CARD.control_hz < len(reading.episode.streams["time_ns"]) < 3 * CARD.control_hz


def test_a_hole_in_the_recording_ends_an_episode(tmp_path):
    writer = Writer(tmp_path / "run.mcap")
    writer.span(State.RUNNING, 2.0)
    writer.tick += 50
    writer.t_ns += 50 * TICK
    writer.span(State.RUNNING, 2.0)
    writer.file.close()
    assert len(opened(tmp_path / "run.mcap").info.episodes) == 2


def test_recordings_without_an_episode_are_refused(tmp_path):
    writer = Writer(tmp_path / "run.mcap")
    writer.span(State.HOLD, 2.0)
    writer.file.close()
    with pytest.raises(DataError, match="holds no episode"):
        opened(tmp_path / "run.mcap")
    empty = Writer(tmp_path / "empty.mcap")
    empty.file.close()
    with pytest.raises(DataError, match="no ticks"):
        opened(tmp_path / "empty.mcap")
    with pytest.raises(DataError, match="no black box"):
        opened(tmp_path / "absent")
