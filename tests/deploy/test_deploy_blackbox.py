"""The black box: read by stock mcap, whatever kills the logger, fills the disk or overruns its rings."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blackbox_rig import CARD, CONFIG, TICK, TapedRig
from mcap.reader import make_reader
from mcap.records import Message, Metadata
from mcap.stream_reader import StreamReader

from robopolicy.data.convert.blackbox_log import BlackBoxLog, describe_dtype, dtype_of, find_logs, sessions
from robopolicy.deploy import blackbox, logger
from robopolicy.deploy.blackbox_status import Revival, recording_of
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import write_daemon
from robopolicy.deploy.logger import Logger
from robopolicy.deploy.records import Layout
from robopolicy.deploy.state_machine import State
from robopolicy.errors import DataError, DeployError

HERE = Path(__file__).parent


def stock(path):
    """(topic or metadata name, object) of every record that stock mcap reads before the file ends or is cut."""
    found, channels = [], {}
    with path.open("rb") as stream:
        try:
            for record in StreamReader(stream, validate_crcs=True).records:
                if type(record).__name__ == "Channel":
                    channels[record.id] = record
                elif isinstance(record, Message):
                    found.append((channels[record.channel_id], record))
                elif isinstance(record, Metadata):
                    found.append((None, record))
        except Exception:  # what a cut file raises is mcap's affair; the prefix has been read
            return found, True
    return found, False


def ticks(found):
    return [json.loads(r.data)["tick"] for c, r in found if c is not None and c.topic == "/state"]


def test_stock_mcap_reads_states_chunks_events_and_the_run(tmp_path):
    with TapedRig(tmp_path) as rig:
        rig.up().run(3)
        rig.do("stop")
        rig.step(60)
        records = [rig.bus.ring("state").read(n) for n in range(1, rig.bus.ring("state").newest + 1)]
    (path,) = find_logs(tmp_path)
    with path.open("rb") as stream:
        reader = make_reader(stream)
        summary = reader.get_summary()
        assert {c.topic for c in summary.channels.values()} >= {"/state", "/chunk", "/event", "/binary/tape"}
        states = [json.loads(m.data) for _, _, m in reader.iter_messages(topics=["/state"])]
        chunks = [json.loads(m.data) for _, _, m in reader.iter_messages(topics=["/chunk"])]
        events = [json.loads(m.data)["event"] for _, _, m in reader.iter_messages(topics=["/event"])]
        (run,) = [m.metadata for m in reader.iter_metadata() if m.name == "robopolicy.run"]
    assert events == ["connect", "arm", "enable", "start", "stop"]
    assert len(chunks) == 3
    assert len(chunks[0]["values"]) == 15
    assert [s["tick"] for s in states] == list(range(1, len(records) + 1))
    for state, record in zip(states, records, strict=True):
        assert state["setpoint"] == record["setpoint"].tolist()
        assert state["state"] == State(int(record["state"])).name
    assert {s["mode"] for s in states} >= {"tracking", "holding"}
    assert json.loads(run["card_hash"]) == CARD.hash
    assert json.loads(run["config"])["policy"] == CONFIG.policy
    assert {"limits_hash", "commit", "versions", "policy_hash"} <= run.keys()


def test_the_limiter_is_named_where_it_clips(tmp_path):
    with TapedRig(tmp_path) as rig:
        rig.up()
        rig.do("start")
        rig.put(0.2, steps=5)
        rig.step(60)
    log = BlackBoxLog(sessions(tmp_path)[0])
    words = {word for s in log.topics["/state"].objects() for word in s["verdict"]}
    assert words & {"velocity", "acceleration", "jerk"}
    assert set(log.records("/binary/state")["verdict"].tolist()) > {0}


def test_a_file_that_is_cut_anywhere_is_read_up_to_there(tmp_path):
    with TapedRig(tmp_path / "whole") as rig:
        rig.up()
        for k in range(6):
            rig.run(1, seed=k) if k == 0 else rig.step(30)
            rig.logger.file.flush()
    (path,) = find_logs(tmp_path / "whole")
    whole, size = path.read_bytes(), path.stat().st_size
    total = len(BlackBoxLog([path]).records("/binary/tape"))
    rng = np.random.default_rng(0)
    counts = []
    for at in sorted(rng.integers(size // 4, size - 1, 25).tolist()):
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(whole[:at])
        log = BlackBoxLog([cut])
        tape = log.records("/binary/tape")
        counts.append(len(tape))
        assert log.endings["cut.mcap"].startswith("cut")
        if len(tape):
            assert tape["tick"].tolist() == list(range(1, len(tape) + 1))
        found, was_cut = stock(cut)
        assert was_cut
        assert len(ticks(found)) == len(tape)
    assert counts == sorted(counts)
    assert 0 < counts[len(counts) // 2] <= total
    cut.write_bytes(whole[:500])
    with pytest.raises(DataError, match="no black box"):
        BlackBoxLog([cut])
    flipped = bytearray(whole)
    flipped[size // 2] ^= 0xFF
    cut.write_bytes(flipped)
    assert len(BlackBoxLog([cut]).records("/binary/tape")) < total  # control: damage in the middle costs what follows


class Feed:
    """A run folder with a bus that this process fills and loggers in processes of their own."""

    def __init__(self, folder, **tunables):
        self.folder = folder
        deploy = dataclasses.replace(CONFIG.deploy, state_capacity=4096, blackbox_chunk_s=0.1, **tunables)
        write_daemon(dataclasses.replace(CONFIG, deploy=deploy), folder)
        self.bus = Bus(Layout.of(CARD, cameras=(), chunk_steps=64, state_capacity=4096))
        self.tick = 0

    def start(self, limit=0):
        self.child = subprocess.Popen(
            [sys.executable, str(HERE / "blackbox_logger_child.py"), str(self.folder), str(os.getpid()), str(limit)],
            pass_fds=tuple(self.bus.fds.values()),
            env={**os.environ, **self.bus.environment()},
            stderr=subprocess.DEVNULL,
        )

    def write(self, n=3):
        rng = np.random.default_rng(self.tick)
        for _ in range(n):
            self.tick += 1
            for name in ("tape", "state"):
                ring = self.bus.ring(name)
                record = np.zeros((), ring.dtype)
                record["tick"], record["t_ns"] = self.tick, time.monotonic_ns()
                record["position"] = rng.normal(size=len(CARD.joints))
                ring.write(record)

    def until(self, condition, pause_s=0.01, limit_s=60.0):
        """Keep writing until the logger's word fulfils ``condition``. -> that word."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.write()
            told = recording_of(self.bus)
            if told and condition(told):
                return told
            time.sleep(pause_s)
        raise AssertionError(recording_of(self.bus))

    def close(self):
        if self.child.poll() is None:
            self.child.terminate()
        self.child.wait()
        self.bus.close()


@pytest.fixture
def feed(tmp_path):
    made = Feed(tmp_path)
    yield made
    made.close()


def test_kill_9_in_the_middle_of_writing_loses_one_chunk_at_most(feed):
    kills = 3
    flushed = 0
    for kill in range(kills):
        feed.start()
        before = recording_of(feed.bus).get("records", 0)
        told = feed.until(lambda t, b=before: t["recording"] and t["bytes"] > 30_000 and t["records"] != b)
        feed.until(lambda t, r=told["records"]: t["records"] > r)
        feed.child.send_signal(signal.SIGKILL)
        feed.child.wait()
        files = find_logs(feed.folder)
        assert len(files) == kill + 1
        path = max(files, key=lambda p: p.stat().st_mtime_ns)
        found, was_cut = stock(path)
        assert was_cut  # control: no footer was written
        seen = ticks(found)
        # everything that the logger had flushed when it last said so is there
        assert path.stat().st_size >= told["bytes"]
        assert seen == list(range(seen[0], seen[-1] + 1))
        flushed = max(flushed, seen[-1])
    log = BlackBoxLog(find_logs(feed.folder))
    numbers = log.records("/binary/state")["tick"]
    # the rings were deep enough: the files together have every tick up to the last flush, however often it died
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    assert numbers[-1] >= flushed
    feed.start()
    feed.until(lambda t: t["recording"])


def test_a_full_disk_stops_the_recording_and_nothing_else(tmp_path):
    feed = Feed(tmp_path)
    try:
        feed.start(limit=900_000)
        told = feed.until(lambda t: not t["recording"] and t["message"])
        assert "stopped" in told["message"]
        assert "File too large" in told["message"]
        feed.bus.heartbeat.clear("logger")
        feed.until(lambda _: feed.bus.heartbeat.age_s("logger") is not None)
        assert feed.child.poll() is None
        feed.child.send_signal(signal.SIGTERM)
        assert feed.child.wait(30) == 0
        (path,) = find_logs(tmp_path)
        seen = ticks(stock(path)[0])
        assert len(seen) > 50
        assert seen == list(range(1, len(seen) + 1))
    finally:
        feed.close()


def test_overrun_rings_are_counted_and_written(tmp_path):
    with TapedRig(tmp_path) as rig:
        rig.up()
        held, rig.logger = rig.logger, None
        rig.step(rig.bus.ring("state").capacity + 300)
        rig.logger = held
        held.poll()
        lost = held.lost
        assert lost > 500  # the oldest of tape and of state
    log = BlackBoxLog(sessions(tmp_path)[0])
    told = log.topics["/lost"].objects()
    assert {t["ring"] for t in told} == {"tape", "state"}
    assert sum(t["lost"] for t in told) == lost
    whole = set(range(1, int(log.records("/binary/tape")["tick"][-1]) + 1))
    missing = whole - set(log.records("/binary/tape")["tick"].tolist())
    assert len(missing) == next(t["lost"] for t in told if t["ring"] == "tape")


def test_a_fault_leaves_the_last_minute_in_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "AFTERMATH_NS", 0)
    with TapedRig(tmp_path) as rig:
        rig.up().run(2)
        assert not list(tmp_path.glob("fault-*"))
        rig.do("estop")
        rig.step(5)
        (dump,) = tmp_path.glob("fault-*.mcap")
        rig.step(20)
        assert len(list(tmp_path.glob("fault-*"))) == 1  # a latched state is one fault
    log = BlackBoxLog([dump])
    assert log.endings[dump.name] == "complete"
    assert int(State.ESTOP) in log.records("/binary/state")["state"]
    assert dump not in find_logs(tmp_path)


def test_the_minute_in_memory_forgets(tmp_path):
    from robopolicy.deploy.blackbox_json import EVENT
    from robopolicy.deploy.blackbox_memory import LastMinute

    memory = LastMinute()
    for second in range(100):
        memory.add(EVENT, second * 10**9, second * 10**9, b"{}", second)
    memory.dump(tmp_path / "dump.mcap", {"session": "s", "opened_ns": 0})
    assert BlackBoxLog([tmp_path / "dump.mcap"]).topics["/event"].numbers == list(range(39, 100))


def test_files_rotate_by_size_and_the_oldest_go(tmp_path):
    with TapedRig(tmp_path, blackbox_max_gb=4e-4, blackbox_chunk_s=0.001) as rig:
        rig.up()
        rig.step(1500)
        assert rig.logger._files > 8
    files = list(tmp_path.glob("*.mcap"))
    assert 2 <= len(files) < 12
    assert sum(p.stat().st_size for p in files) < 4.6e5
    tape = BlackBoxLog(sessions(tmp_path)[0]).records("/binary/tape")["tick"]
    assert tape[0] > 1  # the oldest are gone
    assert np.all(np.diff(tape.astype(int)) == 1)  # and between files nothing is


def test_without_mcap_the_daemon_runs_without_a_black_box(tmp_path, monkeypatch):
    def missing():
        raise DeployError("the black box needs the package mcap; mend: pip install 'robopolicy[deploy]'")

    monkeypatch.setattr(logger, "require_mcap", missing)
    with TapedRig(tmp_path) as rig:
        rig.up()
        rig.logger._tell(0)
        told = recording_of(rig.bus)
        assert not told["recording"]
        assert "robopolicy[deploy]" in told["message"]


def test_an_unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with TapedRig(tmp_path / "file") as rig:
        rig.up()
        assert "stopped" in rig.logger.message


def test_images_are_jpeg_that_foxglove_knows(tmp_path):
    import base64

    from robopolicy.data.codecs import decode_jpeg

    camera = CARD.cameras[0]
    deploy = dataclasses.replace(CONFIG.deploy, blackbox_images="jpeg")
    config = dataclasses.replace(CONFIG, deploy=deploy, cameras=(camera.name,))
    bus = Bus(Layout.of(CARD, cameras=(camera.name,), chunk_steps=8, state_capacity=64))
    box = Logger(bus, config, tmp_path, "session")
    ring = bus.ring("frames")
    record = np.zeros((), ring.dtype)
    record["time_ns"], record["state"] = TICK, 0.5
    y, x = np.mgrid[: camera.height, : camera.width]
    record[f"image/{camera.name}"] = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8) // 2
    ring.write(record)
    box.close()
    bus.close()
    log = BlackBoxLog(sessions(tmp_path)[0])
    (message,) = log.topics[f"/camera/{camera.name}"].objects()
    assert message["format"] == "jpeg"
    out = np.zeros((camera.height, camera.width, 3), np.uint8)
    decode_jpeg(base64.b64decode(message["data"]), out)
    assert np.abs(out.astype(int) - record[f"image/{camera.name}"].astype(int)).mean() < 3
    frame = log.records("/binary/frame")
    assert not any(name.startswith("image/") for name in frame.dtype.names)
    assert frame["state"][0][0] == np.float32(0.5)


def test_descriptions_of_records_admit_numbers_only():
    layout = Layout.of(CARD, cameras=(), chunk_steps=4, state_capacity=64)
    for dtype, _ in layout.rings.values():
        assert dtype_of(describe_dtype(dtype)) == dtype
    hostile = [
        '{"dtype":[["x","|O8",[]]]}',
        '{"dtype":[["x","<f8",[1000000000,1000]]]}',
        '{"dtype":[["x","<f8",[-1]]]}',
    ]
    hostile += ["[]", "{}", "", '{"dtype":[["x","<f8",[]],["x","<f8",[]]]}', '{"dtype":[["x","|V8",[]]]}']
    for text in hostile:
        with pytest.raises(DataError):
            dtype_of(text)


def test_what_is_no_black_box_is_refused(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP0\r\n" + b"\0" * 60)
    assert find_logs(tmp_path) == ()
    with pytest.raises(DataError, match="no black box"):
        sessions(tmp_path)
    assert find_logs(tmp_path / "absent") == ()


def test_a_dead_logger_is_started_once_a_second(monkeypatch):
    revival = Revival()
    assert revival.due()
    assert not revival.due()
    monkeypatch.setattr("robopolicy.deploy.blackbox_status.monotonic_ns", lambda: 10**18)
    assert revival.due()
    assert revival.count == 2


def test_a_failing_disk_is_noticed_by_the_next_flush(tmp_path, monkeypatch):
    file = blackbox.BlackBoxFile(tmp_path / "x.mcap", {"session": "s", "opened_ns": 0})

    def fails(fd):
        raise OSError(5, "Input/output error")

    file._syncing.join()
    monkeypatch.setattr(os, "fsync", fails)
    file.flush()
    file._syncing.join()
    with pytest.raises(OSError, match="Input/output"):
        file.flush()
    file.abandon()
