"""Frames of a real robot: whole and fresh, or none at all."""

import numpy as np
import pytest

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.cameras.pattern import PatternCamera
from robopolicy.deploy.config import DaemonConfig, RobotConfig
from robopolicy.deploy.records import Layout
from robopolicy.deploy.sensors import Sensors, open_cameras
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError

CARD = load_embodiment("panda")
MS = 1_000_000
START = 10**12
PATTERN = "robopolicy.deploy.cameras.pattern:PatternCamera"


class Camera:
    def __init__(self):
        self.seen = None
        self.closed = False

    def read(self):
        return self.seen

    def close(self):
        self.closed = True


@pytest.fixture
def bus():
    made = Bus(Layout.of(CARD, cameras=("front",), chunk_steps=16, state_capacity=64))
    yield made
    made.close()


def joints(bus, at_ns, position=None):
    ring = bus.ring("state")
    record = np.zeros((), ring.dtype)
    record["t_robot_ns"], record["position"] = at_ns, CARD.home_position if position is None else position
    ring.write(record)


def test_a_frame_holds_the_newest_of_everything(bus):
    camera = Camera()
    sensors = Sensors(bus, CARD, {"front": camera}, 0.5)
    joints(bus, START)
    image = np.full((96, 96, 3), 7, np.uint8)
    camera.seen = (image, START - 100 * MS)
    assert sensors.publish(START)
    _, frame = bus.ring("frames").latest()
    assert int(frame["time_ns"]) == START
    assert (frame["image/front"] == image).all()
    assert np.allclose(frame["joint_position"], CARD.home_position, atol=1e-6)
    assert np.linalg.norm(frame["state"][:3]) > 0.1
    assert bus.heartbeat.age_s("sensors", START) == 0.0


@pytest.mark.parametrize("what", ["camera front", "the joints"])
def test_a_frozen_source_gives_no_frame_and_no_heartbeat(bus, what):
    camera = Camera()
    sensors = Sensors(bus, CARD, {"front": camera}, 0.5)
    late, fresh = START - 501 * MS, START
    joints(bus, late if what == "the joints" else fresh)
    camera.seen = (np.zeros((96, 96, 3), np.uint8), late if what == "camera front" else fresh)
    assert not sensors.publish(START)
    assert sensors.late == what
    assert bus.ring("frames").newest == 0
    assert bus.heartbeat.age_s("sensors", START) is None


def test_cameras_come_from_the_robots_configuration():
    robot = RobotConfig(target="x:y", cameras={"front": {"source": PATTERN, "freeze_after_s": 0.1}})
    found = open_cameras(DaemonConfig("p", robot, cameras=("front",)))
    assert isinstance(found["front"], PatternCamera)
    image, time_ns = found["front"].read()
    assert image.shape == (96, 96, 3)
    assert image.max() == 220
    assert time_ns > 0


def test_a_camera_that_nobody_placed_is_refused():
    config = DaemonConfig("p", RobotConfig(target="x:y"), cameras=("front",))
    with pytest.raises(DeployError, match="nobody knows where the camera 'front' is"):
        open_cameras(config)


def test_opencv_reads_a_file_in_the_cards_size(tmp_path):
    cv2 = pytest.importorskip("cv2")
    from robopolicy.deploy.cameras.opencv import OpenCVCamera

    path = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30, (160, 120))
    for _ in range(5):
        writer.write(np.full((120, 160, 3), (200, 0, 0), np.uint8))  # blue, in OpenCV's order
    writer.release()
    camera = OpenCVCamera(96, 96, device=path)
    try:
        for _ in range(1000):
            seen = camera.read()
            if seen is not None:
                break
            camera._leave.wait(0.01)
        image, _ = seen
        assert image.shape == (96, 96, 3)
        assert image[..., 2].mean() > 150 > 60 > image[..., 0].mean()
    finally:
        camera.close()


def test_a_device_that_is_not_there_is_refused():
    pytest.importorskip("cv2")
    from robopolicy.deploy.cameras.opencv import OpenCVCamera

    with pytest.raises(DeployError, match="cannot be opened"):
        OpenCVCamera(96, 96, device="/nowhere/video.avi")
