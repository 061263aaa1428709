"""The policy server as a client sees it, spoken to with a bare websocket."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from serving_fixtures import CARD, NoisyPolicy, certificate, seen_by, token_file, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robopolicy.deploy.array_codec import pack, unpack
from robopolicy.deploy.endpoint import EndpointError, is_loopback, parse_url, read_token
from robopolicy.deploy.policy_messages import pack_observation
from robopolicy.deploy.scripted import ScriptedPolicy
from robopolicy.deploy.server import PolicyServer, ServerThread
from robopolicy.deploy.server_config import ServerConfig

POLICY = NoisyPolicy(CARD)
TOKEN = "a-token-of-32-characters-length!"


@pytest.fixture(scope="module")
def served():
    with ServerThread(POLICY) as running:
        yield running


def opened(url, **more):
    connection = connect(url, compression=None, max_size=None, proxy=None, **more).__enter__()
    return connection, unpack(connection.recv(20))


def message(language="", seed=0, **changed):
    built = pack_observation(seen_by(POLICY, seed, language), POLICY.spec, obs_id=seed + 5, rng=3) | changed
    return {key: value for key, value in built.items() if value is not ...}


def refusal(url, frame):
    """The text and the close code that a frame leads to."""
    connection, _ = opened(url)
    with connection:
        connection.send(frame)
        words = connection.recv(20)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(20)
    assert isinstance(words, str)
    return words, closed.value.rcvd.code


def test_it_speaks_first_and_says_what_it_serves(served):
    connection, metadata = opened(served.url)
    connection.close()
    told = metadata["robopolicy"]
    assert told["embodiment"] == {"name": "panda", "hash": CARD.hash}
    assert told["control_dt_s"] == CARD.control_dt_s
    assert told["action_names"] == list(CARD.action.names)
    spec = told["spec"]
    assert (spec["observation_horizon"], spec["action_horizon"], spec["prediction_horizon"]) == (2, 8, 16)
    assert spec["cameras"] == ["front", "wrist"]


def test_a_reply_is_the_policys_chunk_with_all_that_it_needs(served):
    connection, _ = opened(served.url)
    with connection:
        replies = []
        for seed in (0, 1):
            connection.send(pack(message(seed=seed)))
            replies.append(unpack(connection.recv(20)))
    for seed, reply in enumerate(replies):
        seen = seen_by(POLICY, seed)
        chunk = POLICY.act(seen, rng=3)
        assert reply["actions"].dtype == chunk.values.dtype
        np.testing.assert_array_equal(reply["actions"], chunk.values)
        np.testing.assert_array_equal(reply["robopolicy/valid"], chunk.valid)
        assert reply["robopolicy/obs_id"] == seed + 5
        assert reply["robopolicy/t0_ns"] == seen.time_ns[-1]
        assert (reply["robopolicy/dt_s"], reply["robopolicy/horizon"]) == (CARD.control_dt_s, 8)
        assert reply["robopolicy/embodiment"] == CARD.hash
        assert reply["server_timing"]["infer_ms"] >= 0
    assert "prev_total_ms" not in replies[0]["server_timing"]
    assert replies[1]["server_timing"]["prev_total_ms"] > 0


def openpi_message(state, front, wrist, environment):
    images = {"observation/image": front, "observation/wrist_image": wrist}
    return {"observation/state": state, "observation/environment_state": environment, "prompt": "pick", **images}


def test_an_observation_of_openpis_clients_is_understood(served):
    seen = seen_by(POLICY)
    sent = openpi_message(seen.state[-1].astype(float), seen.image["front"][-1], seen.image["wrist"][-1], np.zeros(3))
    connection, _ = opened(served.url)
    with connection:
        connection.send(pack(sent))
        flat = unpack(connection.recv(20))
        connection.send(
            pack(
                {
                    "images": {"cam_high": seen.image["front"][-1].transpose(2, 0, 1)},
                    **{k: v for k, v in sent.items() if k != "observation/image"},
                }
            )
        )
        nested = unpack(connection.recv(20))
    assert flat["actions"].shape == (15, 10)
    np.testing.assert_array_equal(flat["actions"], nested["actions"])
    assert "robopolicy/obs_id" not in flat


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"state": ...}, "state is no array"),
        ({"state": np.zeros((2, 9), np.float32)}, "state does not fit.*\\(2, 9\\).*\\[2, 10\\]"),
        ({"state": np.zeros((3, 10), np.float32)}, "state does not fit"),
        ({"state": np.zeros((2, 10), np.int64)}, "state does not fit.*floats"),
        ({"state": np.full((2, 10), np.nan)}, "not finite"),
        ({"image/wrist": ...}, "image/wrist is no array"),
        ({"image/wrist": np.zeros((2, 96, 95, 3), np.uint8)}, "image/wrist does not fit"),
        ({"image/wrist": np.zeros((2, 96, 96, 3), np.uint16)}, "image/wrist has the wrong dtype"),
        ({"image/wrist": np.zeros((2, 96, 96, 3), np.float32)}, "image/wrist does not fit"),
        ({"environment_state": ...}, "environment_state is no array"),
        ({"environment_state": np.zeros((2, 4))}, "environment_state does not fit"),
        ({"robopolicy/embodiment": "0" * 16}, "another robot.*panda"),
        ({"robopolicy/embodiment": 7}, "another robot"),
        ({"robopolicy/time_ns": np.array([5, 5])}, "has to increase"),
        ({"robopolicy/time_ns": np.array([-5, 5])}, "has to increase"),
        ({"robopolicy/time_ns": np.array([1.0, 2.0])}, "time_ns does not fit"),
        ({"robopolicy/obs_id": -1}, "obs_id is no number"),
        ({"robopolicy/obs_id": "1"}, "obs_id is no number"),
        ({"robopolicy/rng": ...}, "rng is missing"),
        ({"robopolicy/rng": -1}, "no randomness"),
        ({"robopolicy/rng": np.zeros(5, np.uint64)}, "no randomness"),
        ({"robopolicy/prefix": {"values": 1}}, "prefix has the wrong fields"),
        ({"prompt": 3}, "prompt is no text"),
        ({"environment_names": [1]}, "environment_names is no list"),
        ({"robopolicy/embodiment": ..., "state": ...}, "no state in the observation"),
        ({"robopolicy/embodiment": ..., "image/wrist": ...}, "no environment_state|no image"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(served, changed, words):
    import re

    text, code = refusal(served.url, pack(message(**changed)))
    assert re.search(words, text)
    assert code == 1011


def test_junk_is_refused_and_the_server_lives(served):
    for frame in (b"", b"\xc1", pack({"x": 1})[:-1], b"\x80", b"\x01"):
        text, code = refusal(served.url, frame)
        assert code == 1011
        assert "Traceback" not in text
    text, _ = refusal(served.url, "hello")
    assert "a text frame" in text
    connection, _ = opened(served.url)
    with connection:
        connection.send(pack(message()))
        assert unpack(connection.recv(20))["actions"].shape == (15, 10)


def test_what_went_wrong_inside_stays_inside(served, caplog):
    with caplog.at_level(logging.ERROR, "robopolicy.serve"):
        text, code = refusal(served.url, pack(message("raise")))
    assert code == 1011
    assert "ValueError" in text
    assert "secret" not in text
    assert "/" not in text.replace("robopolicy/", "")
    mark = text.split("look for ")[1].split(" ")[0]
    assert mark in caplog.text  # the log has what the client may ask about
    assert "secret" in caplog.text


def test_a_chunk_that_is_not_finite_does_not_leave(served):
    text, _ = refusal(served.url, pack(message("nan")))
    assert "not finite" in text


def test_a_frame_beyond_the_limit_closes_the_connection():
    with ServerThread(POLICY, ServerConfig(port=0, max_frame_mib=0.5)) as running:
        connection, _ = opened(running.url)
        with connection:
            connection.send(b"\xc6\x00\x10\x00\x00" + bytes(2**20))
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(20)
        assert (closed.value.rcvd or closed.value.sent).code == 1009


def test_it_answers_pings_health_and_new_clients_while_it_thinks():
    policy = NoisyPolicy(CARD)
    policy.gate = threading.Event()
    with ServerThread(policy) as running:
        try:
            busy, _ = opened(running.url, ping_interval=None)
            busy.send(pack(message("wait")))
            assert busy.ping().wait(20)
            health = running.url.replace("ws://", "http://") + "/healthz"
            with urllib.request.urlopen(health, timeout=20) as reply:
                assert (reply.status, reply.read()) == (200, b"OK\n")
            other, metadata = opened(running.url)
            assert "robopolicy" in metadata
            other.send(pack(message(seed=1)))
            with pytest.raises(TimeoutError):  # one policy, one request at a time
                other.recv(0.05)
        finally:
            policy.gate.set()
        assert unpack(busy.recv(20))["robopolicy/obs_id"] == 5
        assert unpack(other.recv(20))["robopolicy/obs_id"] == 6
        busy.close()
        other.close()


def test_the_request_of_a_client_that_has_left_is_not_carried_out():
    policy, asked = NoisyPolicy(CARD), []
    policy.gate = threading.Event()
    act = policy.act
    object.__setattr__(policy, "act", lambda o, **k: asked.append(int(o.time_ns[-1])) or act(o, **k))
    with ServerThread(policy, ServerConfig(port=0, warm_up=0)) as running:
        busy, _ = opened(running.url)
        busy.send(pack(message("wait")))
        until(lambda: asked, "the first request")
        leaving, _ = opened(running.url)
        leaving.send(pack(message(seed=1)))
        leaving.close()
        staying, _ = opened(running.url)
        staying.send(pack(message(seed=2)))
        until(lambda: running.server.clients == 2, "the departure")
        policy.gate.set()
        assert unpack(staying.recv(20))["robopolicy/obs_id"] == 7
        busy.close()
        staying.close()
    assert [time_ns % 10 for time_ns in asked] == [0, 2]


def test_it_warms_up_before_anybody_is_let_in():
    asked = []

    class Counting(ScriptedPolicy):
        def act(self, observation, **more):
            asked.append(observation)
            return super().act(observation, **more)

    with ServerThread(Counting(CARD), ServerConfig(port=0, warm_up=3)):
        assert len(asked) == 3


def test_a_token_is_asked_for(tmp_path):
    with ServerThread(POLICY, ServerConfig(port=0, token=read_token(token_file(tmp_path)))) as running:
        for header in (
            {},
            {"Authorization": "Api-Key wrong"},
            {"Authorization": f"Bearer {TOKEN}"},
            {"Api-Key": TOKEN},
        ):
            with pytest.raises(InvalidStatus) as refused:
                opened(running.url, additional_headers=header)
            assert refused.value.response.status_code == 401
        connection, metadata = opened(running.url, additional_headers={"Authorization": f"Api-Key {TOKEN}"})
        connection.close()
        assert "robopolicy" in metadata


def test_a_web_page_is_not_let_in(served):
    with pytest.raises(InvalidStatus) as refused:
        opened(served.url, origin="http://127.0.0.1:8000")
    assert refused.value.response.status_code == 403


def test_more_clients_than_allowed_are_turned_away():
    with ServerThread(POLICY, ServerConfig(port=0, max_clients=1)) as running:
        first, _ = opened(running.url)
        with pytest.raises(InvalidStatus) as refused:
            opened(running.url)
        assert refused.value.response.status_code == 503
        first.close()

        def again():
            try:
                opened(running.url)[0].close()
            except InvalidStatus:
                return False
            return True

        until(again, "room for the next client")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.local", ""])
def test_beyond_this_machine_it_needs_token_and_tls(tmp_path, host):
    cert, key = certificate(tmp_path)
    for lacking in ({}, {"token": TOKEN}, {"tls_cert": cert, "tls_key": key}):
        with pytest.raises(EndpointError, match="beyond this machine"):
            PolicyServer(POLICY, ServerConfig(host=host, **lacking))
    PolicyServer(POLICY, ServerConfig(host=host, token=TOKEN, tls_cert=cert, tls_key=key))
    with pytest.raises(EndpointError, match="belong together"):
        PolicyServer(POLICY, ServerConfig(tls_cert=cert))


def test_loopback_is_told_from_names_that_look_like_it():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("127.0.0.1.example.com", "localhost.example", "0.0.0.0", "128.0.0.1", "")))


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("ws://192.168.1.5:8000", TOKEN, "missing: wss://$|missing: wss://;"),
        ("wss://192.168.1.5:8000", None, "missing: a token"),
        ("ws://policy.example", None, "missing: wss:// and a token"),
        ("http://127.0.0.1:8000", None, "not the address"),
        ("ws://user:word@127.0.0.1:8000", None, "not the address"),
        ("ws://127.0.0.1:99999", None, "not an address"),
        ("ws://", None, "not the address"),
    ],
)
def test_addresses_that_are_not_asked(url, token, words):
    with pytest.raises(EndpointError, match=words):
        parse_url(url, token=token)
    assert parse_url("wss://192.168.1.5:8000", token=TOKEN).secure
    assert parse_url("ws://[::1]:8000", token=None).host == "::1"


@pytest.mark.parametrize(
    ("token", "mode", "words"),
    [
        (TOKEN, 0o644, "others may read"),
        (TOKEN, 0o640, "others may read"),
        ("short", 0o600, "holds no token"),
        ("a token with spaces in it", 0o600, "holds no token"),
        ("x" * 600, 0o600, "holds no token"),
    ],
)
def test_token_files_that_are_not_used(tmp_path, token, mode, words):
    with pytest.raises(EndpointError, match=words):
        read_token(token_file(tmp_path, token, mode))
    with pytest.raises(EndpointError, match="cannot be read"):
        read_token(tmp_path / "absent")
    assert read_token(token_file(tmp_path)) == TOKEN


def test_a_taken_port_is_said_so(served):
    from robopolicy.errors import DeployError

    port = int(served.url.rpartition(":")[2])
    with pytest.raises(DeployError, match="cannot listen"), ServerThread(POLICY, ServerConfig(port=port)):
        pass


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    command = [
        sys.executable,
        "-m",
        "robopolicy",
        "serve",
        "robopolicy.deploy.scripted:hold",
        "embodiment=panda",
        "port=0",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ}
    )
    try:
        line = process.stdout.readline()
        assert "ws://127.0.0.1:" in line, process.stderr.read()
        connection, metadata = opened(line.split(" at ")[1].strip())
        assert metadata["robopolicy"]["embodiment"]["hash"] == CARD.hash
        process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(60)
        assert closed.value.rcvd.code == 1001
        rest, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
        assert "ended; 0 answered" in rest
        assert "Traceback" not in complaints
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/absent"], "no such policy"),
        (["null"], "give embodiment=NAME"),
        (["null", "embodiment=panda", "host=0.0.0.0"], "beyond this machine"),
        (["null", "embodiment=panda", "token_file=absent"], "token file cannot be read"),
    ],
)
def test_the_command_refuses_before_it_loads_anything(capsys, words, said):
    from robopolicy.cli.main import main

    assert main(["serve", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_server_loads_neither_torch_nor_mujoco():
    code = (
        "import sys, json, robopolicy.deploy.server, robopolicy.deploy.remote_policy, robopolicy.cli.serve;"
        "print(json.dumps([m for m in ('torch', 'mujoco', 'zarr', 'hydra') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
