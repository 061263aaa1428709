"""Client and RemotePolicy: deadlines, servers that die, answer late or wrongly or not at all; the same bits as here."""

import asyncio
import dataclasses
import threading

import numpy as np
import pytest
from serving_fixtures import CARD, FakeServer, NoisyPolicy, answer, ask, certificate, seen_by, token_file, until

from robopolicy.deploy.array_codec import pack
from robopolicy.deploy.client import PolicyClient
from robopolicy.deploy.client_config import ClientConfig, RemoteConfig
from robopolicy.deploy.client_errors import (
    DeadlineError,
    PolicyServerError,
    ReplyError,
    ServerChangedError,
    ServerGoneError,
    ServerRefusedError,
    ServerSaidError,
)
from robopolicy.deploy.client_mapping import ServerMapping, fitted, load_mapping
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.endpoint import parse_url, read_token
from robopolicy.deploy.policy_messages import MetadataError, metadata_of, pack_rng, restore_rng
from robopolicy.deploy.policy_source import build_policy, cameras_of, check_policy
from robopolicy.deploy.remote_policy import RemotePolicy
from robopolicy.deploy.scripted import ScriptedPolicy
from robopolicy.deploy.server import ServerThread
from robopolicy.deploy.server_config import ServerConfig
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError, EmbodimentMismatchError, RobopolicyError
from robopolicy.protocols import Policy
from robopolicy.schema import build, to_dict
from robopolicy.types import ActionChunk

POLICY, PLAIN = NoisyPolicy(CARD), ScriptedPolicy(CARD)
PATIENT = ClientConfig(deadline_s=20.0, connect_timeout_s=20.0, backoff_s=0.01, backoff_cap_s=0.05)


def remote(**more):
    return RemoteConfig(dataclasses.replace(PATIENT, **more))


def same(a, b):
    assert a.values.dtype == b.values.dtype
    assert a.values.tobytes() == b.values.tobytes()
    assert a.valid.tobytes() == b.valid.tobytes()
    assert (a.t0_ns, a.dt_s, a.embodiment, a.horizon) == (b.t0_ns, b.dt_s, b.embodiment, b.horizon)


def prefix_at(t0_ns):
    values = np.random.default_rng(9).random((6, len(CARD.action)))
    return ActionChunk(values, t0_ns, CARD.control_dt_s, CARD.hash, valid=np.arange(6) != 2, horizon=4)


@pytest.fixture(scope="module")
def served():
    with ServerThread(POLICY) as running:
        yield running


@pytest.mark.parametrize("with_prefix", [False, True])
def test_the_chunk_is_that_of_the_policy_here_bit_for_bit(served, with_prefix):
    with RemotePolicy(CARD, served.url, remote()) as policy:
        assert isinstance(policy, Policy)
        assert policy.spec == POLICY.spec
        here, there = np.random.default_rng(4), np.random.default_rng(4)
        here.integers(5, dtype=np.uint32), there.integers(5, dtype=np.uint32)  # half a word is left over
        for seed in range(4):
            seen = seen_by(POLICY, seed, "pick it up")
            prefix = prefix_at(int(seen.time_ns[-1])) if with_prefix else None
            same(policy.act(seen, rng=seed, prefix=prefix), POLICY.act(seen, rng=seed, prefix=prefix))
            same(policy.act(seen, rng=there, prefix=prefix), POLICY.act(seen, rng=here, prefix=prefix))
        assert here.random() == there.random()
        changed = POLICY.act(seen_by(POLICY, 1), rng=1).values != POLICY.act(seen_by(POLICY, 1), rng=2).values
        assert changed.all()  # control: the randomness matters


def test_other_generators_give_a_seed():
    rng = np.random.Generator(np.random.MT19937(1))
    assert isinstance(pack_rng(rng), int)
    state = np.random.default_rng(3)
    copy = restore_rng(pack_rng(state))
    assert copy.random(5).tolist() == state.random(5).tolist()


def test_a_robot_that_the_policy_is_not_for_is_refused(served):
    with pytest.raises(EmbodimentMismatchError, match=r"panda.*so101"):
        RemotePolicy(load_embodiment("so101"), served.url, remote())
    assert not [t for t in threading.enumerate() if t.name == "policy-client"]


def test_token_and_certificate_over_tls(tmp_path):
    cert, key = certificate(tmp_path)
    token = token_file(tmp_path)
    config = ServerConfig(port=0, token=read_token(token), tls_cert=cert, tls_key=key)
    with ServerThread(PLAIN, config) as running:
        assert running.url.startswith("wss://")
        seen = seen_by(PLAIN)
        with RemotePolicy(CARD, running.url, remote(token_file=token, tls_ca=cert)) as policy:
            same(policy.act(seen, rng=0), PLAIN.act(seen, rng=0))
        with pytest.raises(ServerRefusedError, match=r"HTTP 401.*token_file"):
            RemotePolicy(CARD, running.url, remote(tls_ca=cert))
        with pytest.raises(ServerRefusedError, match=r"certificate.*tls_ca"):
            RemotePolicy(CARD, running.url, remote(token_file=token))
        other = tmp_path / "other"
        other.mkdir()
        wrong = token_file(other, "another-token-of-32-characters!!")
        with pytest.raises(ServerRefusedError, match="HTTP 401"):
            RemotePolicy(CARD, running.url, remote(token_file=wrong, tls_ca=cert))
        with pytest.raises(PolicyServerError):
            RemotePolicy(CARD, running.url.replace("wss", "ws"), remote(connect_timeout_s=0.5))


def test_no_server_is_said_so_in_time():
    with FakeServer(ask) as gone:
        url = gone.url
    with pytest.raises(ServerGoneError, match=r"no policy server.*robopolicy serve"):
        RemotePolicy(CARD, url, remote(connect_timeout_s=1.0))


def test_what_is_no_policy_server_is_refused_at_once():
    import http.server

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(ServerRefusedError, match="HTTP"):
            RemotePolicy(CARD, f"ws://127.0.0.1:{server.server_port}", remote())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_redirection_is_not_followed(served):
    import http.server

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", served.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(ServerRefusedError, match="HTTP 302"):
            RemotePolicy(CARD, f"ws://127.0.0.1:{server.server_port}", remote())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def metadata(**changed):
    told = metadata_of(PLAIN)
    told["robopolicy"] = {k: v for k, v in (told["robopolicy"] | changed).items() if v is not ...}
    return told


SPEC = metadata_of(PLAIN)["robopolicy"]["spec"]


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        (metadata(protocol=2), MetadataError, "another protocol.*2.*protocol 1"),
        ({"robopolicy": 3}, MetadataError, "another protocol"),
        (metadata(embodiment={"name": "panda", "hash": "0" * 16}), EmbodimentMismatchError, "another robot"),
        (metadata(embodiment=...), EmbodimentMismatchError, "another robot"),
        (metadata(spec=...), MetadataError, "(?s)faulty.*observation_horizon"),
        (metadata(spec=SPEC | {"observation_horizon": 0}), MetadataError, "at least 1"),
        (metadata(spec=SPEC | {"cameras": ["top"]}), MetadataError, "unknown camera.*front"),
        (metadata(spec=SPEC | {"extra": 1}), MetadataError, "unknown key"),
        (metadata(control_dt_s=0.2), MetadataError, "contradict"),
        (metadata(action_names=5), MetadataError, "contradict"),
        (metadata(state_names=["a"]), MetadataError, "contradict"),
        (b"\x81\xa1a\xc1", ReplyError, "metadata were refused"),
        (b"\xdd\xff\xff\xff\xff", ReplyError, "too many values"),
        ("Traceback: no model", ServerSaidError, "no model"),
        ({}, DeployError, "does not say which robot.*mapping"),
        (pack({}), DeployError, "does not say which robot.*openpi"),
        (b"\x01", DeployError, "does not say which robot"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(told, kind, words):
    with FakeServer(ask, told) as server, pytest.raises(kind, match=words):
        RemotePolicy(CARD, server.url, remote())


VALUES = answer({"robopolicy/time_ns": np.array([1, 2])})["actions"]


def with_value(value, row=3, column=2):
    changed = VALUES.copy()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"actions": ...}, "no chunk of actions"),
        ({"actions": [[0.0] * 10]}, "no chunk of actions"),
        ({"actions": VALUES[0]}, "no chunk of actions"),
        ({"actions": VALUES[:, :9]}, "wrong shape.*\\(15, 9\\).*\\[1..64, 10\\]"),
        ({"actions": VALUES[:0]}, "wrong shape"),
        ({"actions": np.repeat(VALUES, 5, 0)}, "wrong shape"),
        ({"actions": VALUES.astype(np.int64)}, "no chunk of actions"),
        ({"actions": with_value(np.nan)}, "not finite"),
        ({"actions": with_value(np.inf)}, "not finite"),
        ({"actions": with_value(1.01 + 0.25)}, "action 3 .*ee_position.z = 1.26.*1.5 x the range 0.008 to 0.5"),
        ({"actions": with_value(1e30)}, "ee_position.z"),
        ({"robopolicy/t0_ns": 5}, "t0_ns"),
        ({"robopolicy/t0_ns": ...}, "t0_ns"),
        ({"robopolicy/dt_s": 0.2}, "dt_s"),
        ({"robopolicy/dt_s": "0.1"}, "dt_s"),
        ({"robopolicy/embodiment": "0" * 16}, "embodiment"),
        ({"robopolicy/embodiment": ...}, "embodiment"),
        ({"robopolicy/valid": np.ones(14, bool)}, "valid"),
        ({"robopolicy/valid": np.ones(15)}, "valid"),
        ({"robopolicy/valid": ...}, "valid"),
        ({"robopolicy/horizon": 16}, "horizon"),
        ({"robopolicy/horizon": 0}, "horizon"),
        ({"robopolicy/horizon": True}, "horizon"),
        ({"robopolicy/obs_id": ...}, "without robopolicy/obs_id"),
    ],
)
def test_a_reply_that_must_not_become_motion_is_refused(changed, words):
    async def talk(connection):
        while True:
            await connection.send(pack(answer(await ask(connection), **changed)))

    with (
        FakeServer(talk) as server,
        RemotePolicy(CARD, server.url, remote()) as policy,
        pytest.raises(ReplyError, match=words),
    ):
        policy.act(seen_by(PLAIN), rng=0)


def test_the_reply_beside_the_refused_ones_is_taken():
    top = 0.5 + 0.24 * (0.5 - 0.008)  # within a quarter of the range beyond its end

    async def talk(connection):
        while True:
            await connection.send(pack(answer(await ask(connection), actions=with_value(top), extra={"a": [1]})))

    with FakeServer(talk) as server, RemotePolicy(CARD, server.url, remote()) as policy:
        chunk = policy.act(seen_by(PLAIN), rng=0)
    assert chunk.values[3, 2] == top
    assert (chunk.horizon, chunk.t0_ns) == (8, int(seen_by(PLAIN).time_ns[-1]))


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xc1", b"\x01", pack({"actions": 1})[:-1], b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
)
def test_a_reply_that_is_no_message_is_refused_and_the_connection_made_anew(frame):
    async def talk(connection):
        message = await ask(connection)
        await connection.send(frame if server.connections == 1 else pack(answer(message)))
        await connection.wait_closed()

    with FakeServer(talk) as server, RemotePolicy(CARD, server.url, remote()) as policy:
        with pytest.raises(ReplyError):
            policy.act(seen_by(PLAIN), rng=0)
        assert policy.act(seen_by(PLAIN), rng=0).horizon == 8
        assert server.connections == 2


def test_an_error_in_a_text_frame_is_told_briefly():
    async def talk(connection):
        await ask(connection)
        await connection.send("Traceback:\n\x1b[31m" + "x" * 100_000)
        await connection.close(1011)

    with (
        FakeServer(talk) as server,
        RemotePolicy(CARD, server.url, remote()) as policy,
        pytest.raises(ServerSaidError, match=r"Traceback:\\n\\x1b") as caught,
    ):
        policy.act(seen_by(PLAIN), rng=0)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_a_frame_beyond_the_limit_is_refused():
    async def talk(connection):
        await ask(connection)
        await connection.send(bytes(2**20))
        await connection.wait_closed()

    with (
        FakeServer(talk) as server,
        RemotePolicy(CARD, server.url, remote(max_frame_mib=0.5)) as policy,
        pytest.raises(ServerGoneError, match="closed the connection"),
    ):
        policy.act(seen_by(PLAIN), rng=0)


class Gate:
    """A server that holds replies back until it is told; answers in order."""

    def __init__(self, echo=True):
        self.held, self.open, self.echo = [], False, echo

    async def talk(self, connection):
        while True:
            message = await ask(connection)
            self.held.append(message["robopolicy/obs_id"])
            while not self.open:
                await asyncio.sleep(0.002)
            await connection.send(pack(answer(message, **({} if self.echo else {"robopolicy/obs_id": ...}))))


@pytest.mark.parametrize("echo", [True, False])
def test_a_missed_deadline_and_the_late_reply_is_discarded(echo):
    gate = Gate(echo)
    with FakeServer(gate.talk) as server, PolicyClient(server.url, PATIENT) as client:
        message = {"robopolicy/time_ns": np.array([1, 2])}
        client.connect()
        with pytest.raises(DeadlineError, match="in time"):
            client.infer(message, deadline_s=1.0)
        gate.open = True
        reply = client.infer({"robopolicy/time_ns": np.array([3, 4])})
        assert reply["robopolicy/t0_ns"] == 4  # not the one of the first request
        assert gate.held == [1, 2]
        assert client.counts == {"connected": 1, "stale": 1, "asked": 2}


def test_a_server_that_stays_silent_is_left():
    gate = Gate()
    with FakeServer(gate.talk) as server, PolicyClient(server.url, PATIENT) as client:
        client.connect()
        for _ in range(2):
            with pytest.raises(DeadlineError):
                client.infer({"robopolicy/time_ns": np.array([1, 2])}, deadline_s=0.5)
        gate.open = True
        assert client.infer({"robopolicy/time_ns": np.array([3, 4])})["robopolicy/t0_ns"] == 4
        assert client.counts["connected"] == 2


def test_a_reply_to_another_request_is_passed_over():
    async def talk(connection):
        while True:
            message = await ask(connection)
            number = message["robopolicy/obs_id"]
            await connection.send(pack(answer(message, **{"robopolicy/obs_id": number + 7})))
            await connection.send(pack(answer(message, **{"robopolicy/obs_id": number})))
            await connection.send(pack(answer(message, **{"robopolicy/obs_id": number})))  # comes unasked

    with FakeServer(talk) as server, PolicyClient(server.url, PATIENT) as client:
        for k in range(3):
            reply = client.infer({"robopolicy/time_ns": np.array([k, k + 1])})
            assert reply["robopolicy/t0_ns"] == k + 1
        assert client.counts["stale"] >= 3


def test_a_server_that_never_answers_what_was_asked_is_left():
    async def talk(connection):
        message = await ask(connection)
        while True:
            await connection.send(pack(answer(message, **{"robopolicy/obs_id": 10**6})))

    with (
        FakeServer(talk) as server,
        PolicyClient(server.url, PATIENT) as client,
        pytest.raises(ReplyError, match="other requests"),
    ):
        client.infer({"robopolicy/time_ns": np.array([1, 2])})


def test_a_peer_that_does_not_read_cannot_hold_the_caller():
    async def talk(connection):
        connection.transport.pause_reading()
        await server.stopped()

    with FakeServer(talk) as server, PolicyClient(server.url, PATIENT) as client:
        client.connect()
        with pytest.raises(DeadlineError, match="sending"):
            client.infer({"x": np.zeros(12 * 2**20, np.uint8)}, deadline_s=2.0)


def test_a_peer_that_accepts_and_says_nothing_cannot_hold_the_caller():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineError):
            RemotePolicy(CARD, url, remote(connect_timeout_s=0.3))


def test_after_the_server_has_died_the_next_call_finds_the_new_one():
    with ServerThread(PLAIN) as first:
        port = int(first.url.rpartition(":")[2])
        policy = RemotePolicy(CARD, first.url, remote())
        seen = seen_by(PLAIN)
        same(policy.act(seen, rng=0), PLAIN.act(seen, rng=0))
    with policy:
        for _ in range(3):  # well before the deadline
            with pytest.raises(ServerGoneError):
                policy.act(seen, rng=0)
        with ServerThread(PLAIN, ServerConfig(port=port)):

            def back():
                try:
                    return policy.act(seen, rng=0)
                except PolicyServerError:
                    return None

            until(back, "the new server")
            same(back(), PLAIN.act(seen, rng=0))
        assert policy.client.counts["connected"] == 2


def test_a_server_that_serves_something_else_after_a_reconnect_is_refused():
    with ServerThread(PLAIN) as first:
        port = int(first.url.rpartition(":")[2])
        policy = RemotePolicy(CARD, first.url, remote())
    with policy, ServerThread(POLICY, ServerConfig(port=port)):

        def refused():
            try:
                policy.act(seen_by(PLAIN), rng=0)
            except ServerChangedError:
                return True
            except PolicyServerError:
                return False
            raise AssertionError("another policy was believed")

        until(refused, "the refusal")


def test_waits_grow_are_capped_and_drawn_from_the_seed():
    import random

    from robopolicy.deploy.client_link import Link

    with FakeServer(ask) as gone:
        url = parse_url(gone.url, token=None)
    config = ClientConfig(backoff_s=0.001, backoff_cap_s=0.016, seed=3)

    async def waits():
        link, found = Link(url, None, config), []
        for _ in range(8):
            with pytest.raises(ServerGoneError):
                await link.open(asyncio.get_running_loop().time() + 20)
            found.append(link.wait_s)
        return found

    found, jitter = asyncio.run(waits()), random.Random(3)
    expected = [min(0.016, 0.001 * 2**n) * (0.5 + 0.5 * jitter.random()) for n in range(8)]
    assert found == expected


def test_one_request_at_a_time():
    gate = Gate()
    with FakeServer(gate.talk) as server, PolicyClient(server.url, PATIENT) as client:
        message = {"robopolicy/time_ns": np.array([1, 2])}
        replies = []
        thread = threading.Thread(target=lambda: replies.append(client.infer(message)))
        thread.start()
        until(lambda: gate.held, "the first request")
        with pytest.raises(DeadlineError, match="in flight"):
            client.infer(message, deadline_s=0.05)
        gate.open = True
        thread.join()
        assert len(replies) == 1


def test_nothing_is_left_behind(served):
    client = PolicyClient(served.url, PATIENT)
    client.connect()
    client.close()
    client.close()
    assert not [t for t in threading.enumerate() if t.name == "policy-client"]
    client.connect()  # and it can be used again
    client.close()


NAMES = list(CARD.action.names)
MAPPING = {
    "state": {"observation/state": [*NAMES[:9], {"channel": "gripper", "scale": -1, "offset": 1}]},
    "images": {"observation/image": "front"},
    "image_size": [48, 64],
    "prompt": "pick",
    "actions": [{"channel": "gripper", "scale": -1, "offset": 1}, *NAMES[:9]],
    "action_horizon": 5,
}


def test_a_foreign_server_is_asked_in_its_words_and_its_columns_are_taken_by_name(monkeypatch):
    got = []

    async def talk(connection):
        while True:
            got.append(await ask(connection))
            ours = answer({"robopolicy/time_ns": np.array([1, 2])})["actions"]
            theirs = np.concatenate([1 - 0.3 * np.ones((15, 1)), ours[:, :9]], axis=1)
            await connection.send(pack({"actions": theirs.astype(np.float32), "policy_timing": {"infer_ms": 1.0}}))

    mapping = build(ServerMapping, MAPPING)
    monkeypatch.setattr("robopolicy.deploy.client_mapping.load_mapping", lambda name: {"mine": mapping}[name])
    seen = seen_by(POLICY)
    told = dataclasses.replace(remote(), mapping="mine")
    with FakeServer(talk, {}) as server, RemotePolicy(CARD, server.url, told) as policy:
        assert (policy.spec.observation_horizon, policy.spec.action_horizon) == (1, 5)
        assert policy.spec.cameras == ("front",)
        chunk = policy.act(seen, rng=0)
        assert (chunk.horizon, chunk.t0_ns, chunk.embodiment) == (5, int(seen.time_ns[-1]), CARD.hash)
        np.testing.assert_allclose(chunk.values[:, CARD.action.index("gripper")], 0.3, rtol=1e-6)
        np.testing.assert_allclose(chunk.values[:, :9], VALUES[:, :9], rtol=1e-6)
    message = got[0]
    assert message["prompt"] == "pick"
    np.testing.assert_allclose(message["observation/state"][9], 1 - seen.state[-1, 9], rtol=1e-6)
    assert message["observation/image"].shape == (48, 64, 3)
    assert not message["observation/image"][:, :8].any()  # the square picture has black sides


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"actions": NAMES[:9]}, "not the channels of the card"),
        ({"actions": [*NAMES, NAMES[0]]}, "not the channels of the card"),
        ({"actions": [*NAMES[:9], "hand"]}, "not the channels of the card"),
        ({"state": {"s": ["joint1"]}}, "no such channel"),
        ({"images": {"i": "top"}}, "no such camera"),
        ({"dt_s": 0.5}, "another rate"),
        ({"actions": [*NAMES[:9], {"channel": "gripper", "scale": 0}]}, "scale"),
    ],
)
def test_a_mapping_that_does_not_fit_the_robot_is_refused(changed, words):
    with pytest.raises(RobopolicyError, match=words):
        build(ServerMapping, MAPPING | changed).check(CARD)


def test_the_mapping_that_comes_along_fits_the_card_it_is_written_for():
    assert load_mapping("openpi").check(CARD).spec(CARD).cameras == ("front", "wrist")
    picture = np.full((96, 96, 3), 7, np.uint8)
    assert fitted(picture, (224, 224)).min() == 7
    assert fitted(picture, None) is picture


def test_the_daemon_finds_the_server_by_its_address(served):
    check_policy(served.url)
    settings = DeployConfig(remote=remote(), max_chunk_steps=32)
    assert cameras_of(served.url, CARD, settings.remote) == ("front", "wrist")
    config = DaemonConfig(served.url, RobotConfig("x:y", "panda"), settings, cameras=("front", "wrist"))
    assert build(DaemonConfig, to_dict(config), "deploy") == config
    policy = build_policy(config, CARD)
    with policy:
        seen = seen_by(POLICY)
        same(policy.act(seen, rng=1), POLICY.act(seen, rng=1))
    with pytest.raises(DeployError, match="cameras that are not streamed"):
        build_policy(dataclasses.replace(config, cameras=()), CARD)
    with pytest.raises(DeployError, match="on another machine"):
        build_policy(dataclasses.replace(config, policy="ws://10.0.0.1:8000"), CARD)


def test_the_worker_outlives_its_server(capsys):
    from robopolicy.deploy.bus import Bus
    from robopolicy.deploy.policy_worker import PolicyWorker
    from robopolicy.deploy.records import Layout
    from robopolicy.deploy.state_machine import State

    bus = Bus(Layout.of(CARD, cameras=(), chunk_steps=32, state_capacity=64))

    def frame(step):
        record = np.zeros((), bus.ring("frames").dtype)
        record["time_ns"], record["step"], record["split"] = 10**12 + step * 10**8, step, b"test"
        record["state"] = seen_by(PLAIN).state[-1]
        bus.ring("frames").write(record)

    try:
        with ServerThread(PLAIN) as first:
            port = int(first.url.rpartition(":")[2])
            policy = RemotePolicy(CARD, first.url, remote())
            worker = PolicyWorker(policy, bus)
            state = np.zeros((), bus.ring("state").dtype)
            state["state"], state["epoch"] = State.RUNNING, 1
            bus.ring("state").write(state)
            frame(0)
            assert worker.poll()
        with policy:
            frame(8)
            assert not worker.poll()
            assert "no chunk: " in capsys.readouterr().err
            with ServerThread(PLAIN, ServerConfig(port=port)):
                until(worker.poll, "a chunk of the new server")
            assert bus.mailbox.take().chunk().horizon == 8
    finally:
        bus.close()
