"""The operator's page: who may do what, what hostile requests achieve, and what it gathers to be shown."""

import asyncio
import contextlib
import io
import json
import re
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from robopolicy.control.verdict import Limit
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, DeployConfig, OperatorConfig, RobotConfig
from robopolicy.deploy.control_socket import ControlServer
from robopolicy.deploy.operator.access import Tokens, foreign, page_url, write_private
from robopolicy.deploy.operator.event_log import EventLog
from robopolicy.deploy.operator.feed import Feed, description
from robopolicy.deploy.operator.pictures import HEADER, Pictures, encode, encode_png
from robopolicy.deploy.records import Layout
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.deploy.state_machine import OPERATOR_EVENTS, State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DeployError
from robopolicy.schema import build

aiohttp = pytest.importorskip("aiohttp")
from robopolicy.deploy.operator.server import COMMANDS, MAX_MESSAGE_BYTES, OperatorServer  # noqa: E402

CARD = load_embodiment("panda")
STATIC = Path(__file__).parents[2] / "deploy" / "operator"


def config():
    return DaemonConfig("p", RobotConfig(target="x:y", embodiment="panda"), cameras=("front",))


class Rig:
    """The web server on a free port, a bus filled by hand, and a supervisor that notes what it is asked."""

    def __init__(self, run_dir):
        self.run_dir, self.asked = run_dir, []
        self.bus = Bus(Layout.of(CARD, cameras=("front",), chunk_steps=8, state_capacity=64))
        self.tokens = Tokens.create(run_dir)
        self.server = OperatorServer(run_dir, self.bus, config(), self.tokens)
        self._control = ControlServer(run_dir, self._handle)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while not self._leave.is_set():
            self._control.poll(0.01)

    def _handle(self, message):
        self.asked.append(message["command"])
        if message["command"] == "disconnect":
            raise DeployError("refused; mend: do not")
        return {"pid": 1, "processes": {"realtime": {"pid": 2, "alive": True, "ready": True}}, "event": 7}

    def close(self):
        self._leave.set()
        self._thread.join()
        self._control.close()

    def tick(self, **fields):
        ring = self.bus.ring("state")
        record = np.zeros((), ring.dtype)
        now_ns = monotonic_ns()
        for name, value in {"t_ns": now_ns, "t_robot_ns": now_ns, "state": State.RUNNING, **fields}.items():
            record[name] = value
        ring.write(record)

    def run(self, scenario):
        """``await scenario(client)`` with the server up; client has ``get``, ``post``, ``live`` and ``url``."""

        async def main():
            leave = asyncio.Event()
            runner = aiohttp.web.AppRunner(self.server.application(), shutdown_timeout=0.1)
            await runner.setup()
            await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
            pump = asyncio.create_task(self.server.pump(leave))
            try:
                async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
                    async with asyncio.timeout(60):
                        return await scenario(session)
            finally:
                leave.set()
                await pump
                await self.server.close()
                await runner.cleanup()

        return asyncio.run(main())


@pytest.fixture
def rig(tmp_path):
    it = Rig(tmp_path)
    yield it
    it.close()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


async def ask(session, path, method="POST", **more):
    async with session.request(method, path, **more) as reply:
        return reply.status, await reply.text()


def test_a_stop_needs_no_token_and_everything_else_does(rig):
    async def scenario(session):
        assert (await ask(session, "/api/stop"))[0] == 200
        assert rig.asked.count("stop") == 1
        assert (await ask(session, "/api/stop", headers=bearer("0" * 32)))[0] == 200
        for command in (*COMMANDS, "shutdown", "fly"):
            if command != "stop":
                assert (await ask(session, f"/api/{command}"))[0] == 401
                assert (await ask(session, f"/api/{command}", headers=bearer("0" * 32)))[0] == 401
        assert (await ask(session, "/api/state", "GET"))[0] == 401
        assert set(rig.asked) <= {"stop", "status"}  # nothing of that reached the supervisor

    rig.run(scenario)


def test_who_looks_on_may_stop_and_who_operates_may_ask_for_every_event(rig):
    async def scenario(session):
        observer, operator = bearer(rig.tokens.observe), bearer(rig.tokens.operate)
        assert (await ask(session, "/api/state", "GET", headers=observer))[0] == 200
        assert (await ask(session, "/api/start", headers=observer))[0] == 403
        assert (await ask(session, "/api/stop", headers=observer))[0] == 200
        for event in OPERATOR_EVENTS:
            expected = 409 if event == "disconnect" else 200
            assert (await ask(session, f"/api/{event}", headers=operator))[0] == expected
        assert set(OPERATOR_EVENTS) <= set(rig.asked)
        _, text = await ask(session, "/api/disconnect", headers=operator)
        assert "mend: do not" in text
        for command in ("shutdown", "status", "reset_scene", "begin_episode", "..%2Fstop"):
            assert (await ask(session, f"/api/{command}", headers=operator))[0] == 404
        assert "shutdown" not in rig.asked

    rig.run(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1:80@evil.example"},
        {"Host": ""},
    ],
)
def test_another_site_or_a_foreign_name_gets_nothing_not_even_a_stop(rig, headers):
    async def scenario(session):
        operator = bearer(rig.tokens.operate)
        for path, method in (("/", "GET"), ("/api/state", "GET"), ("/api/stop", "POST"), ("/api/start", "POST")):
            assert (await ask(session, path, method, headers=operator | headers))[0] in (400, 403)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect("/live", headers=headers)
        assert {"stop", "start"}.isdisjoint(rig.asked)

    rig.run(scenario)


def test_our_own_page_is_let_in_under_every_local_name():
    for host in ("127.0.0.1:8765", "localhost:8765", "localhost", "[::1]:80"):
        assert foreign({"Host": host}) == ""
        assert foreign({"Host": host, "Origin": f"http://{host}"}) == ""
    assert foreign({"Host": "localhost:8765", "Origin": "http://127.0.0.1:8765"})


def test_every_answer_forbids_what_is_not_ours(rig):
    async def scenario(session):
        for path, method, headers in (
            ("/", "GET", {}),
            ("/nothing", "GET", {}),
            ("/api/start", "POST", {}),
            ("/api/stop", "GET", {}),
            ("/", "GET", {"Host": "evil.example"}),
        ):
            async with session.request(method, path, headers=headers) as reply:
                policy = reply.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "Access-Control-Allow-Origin" not in reply.headers
                assert reply.headers["X-Frame-Options"] == "DENY"
                assert reply.headers["Cache-Control"] == "no-store"

    rig.run(scenario)


def test_the_page_is_whole_in_itself():
    page, script, style = ((STATIC / f"page.{kind}").read_text() for kind in ("html", "js", "css"))
    assert re.findall(r'(?:src|href)="([^"d#][^"]*)"', page) == ["/page.css", "/page.js"]
    assert not re.search(r"\son\w+=|style=|<style|<script>", page)
    assert not re.search(r"https?:|@import|url\((?!#)", script + style)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    # every element that the script asks for by name is there
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(re.findall(r'id="([\w-]+)"', page))
    assert set(re.findall(r'data-state="(\w+)"', page)) == {state.name for state in State}
    assert set(re.search(r"const TONES = \{(.*?)\}", script, re.S)[1].split()[::2]) == {f"{s.name}:" for s in State}


def test_the_tokens_are_private_and_no_link_is_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    (tmp_path / "operator.token").symlink_to(target)
    tokens = Tokens.create(tmp_path)
    assert target.read_text() == "mine"
    for name in ("operator.token", "observer.token"):
        assert stat.S_IMODE((tmp_path / name).lstat().st_mode) == 0o600
        assert re.fullmatch(r"[0-9a-f]{32}\n", (tmp_path / name).read_text())
    assert tokens != Tokens.create(tmp_path)
    assert tokens.role(tokens.operate) == "operate"
    assert tokens.role(tokens.observe) == "observe"
    for wrong in ("", None, 7, [], tokens.operate[:-1], tokens.operate.upper() + "x", "\udcff" * 32):
        assert tokens.role(wrong) is None
    with pytest.raises(DeployError, match=r"deploy\.operator\.port=0"):
        page_url(tmp_path)
    write_private(tmp_path / "operator.url", "http://127.0.0.1:1/#token=x")
    assert page_url(tmp_path) == "http://127.0.0.1:1/#token=x"


async def open_live(session, token):
    socket = await session.ws_connect("/live")
    await socket.send_str(json.dumps({"token": token}))
    return socket


async def until(socket, kind):
    while True:
        message = await socket.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT and (found := json.loads(message.data))["kind"] == kind:
            return found


async def closes(socket):
    """Read on until the other side closes."""
    while (message := await socket.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        pass
    return message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)


def test_the_stream_begins_with_the_robot_and_goes_on_with_the_arm(rig):
    rig.tick(position=CARD.home_position, streamed=1, verdict=int(Limit.VELOCITY | Limit.JERK), clipped=1)

    async def scenario(session):
        socket = await open_live(session, rig.tokens.observe)
        meta = await until(socket, "meta")
        assert meta["role"] == "observe"
        assert [joint["name"] for joint in meta["joints"]] == list(CARD.joints.names)
        assert meta["ways"]["HOLD"]["start"] == "ALIGNING"
        assert "stop" not in meta["ways"]["HOLD"]
        live = await until(socket, "live")
        assert live["state"] == "RUNNING"
        assert live["position"] == pytest.approx(CARD.home_position, abs=1e-4)
        assert live["limits"] == ["velocity", "jerk"]
        while "realtime" not in live["processes"]:
            live = await until(socket, "live")
        await socket.close()

    rig.run(scenario)


@pytest.mark.parametrize(
    "first", ['{"token": "%s"}' % ("0" * 32), "[]", "{", '{"deadman": "1"}', "[" * 900, '{"token": 1}']
)
def test_without_the_token_the_stream_is_closed(rig, first):
    async def scenario(session):
        socket = await session.ws_connect(f"/live?token={rig.tokens.operate}")  # not read: addresses end up in logs
        await socket.send_str(first)
        message = await socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 4401

    rig.run(scenario)


def test_hostile_messages_end_their_own_stream_only(rig):
    async def scenario(session):
        good = await open_live(session, rig.tokens.operate)
        await until(good, "meta")
        for hostile in (
            "x" * (MAX_MESSAGE_BYTES + 1),
            "[" * 1000,
            '{"deadman": 1}',
            '{"deadman": "-1"}',
            '{"start": 1}',
            b"\0",
        ):
            socket = await open_live(session, rig.tokens.operate)
            await until(socket, "meta")
            await (socket.send_bytes if isinstance(hostile, bytes) else socket.send_str)(hostile)
            assert await closes(socket)
        observer = await open_live(session, rig.tokens.observe)
        await observer.send_str(json.dumps({"deadman": str(monotonic_ns())}))
        assert await closes(observer)
        assert rig.bus.heartbeat.age_s("deadman") is None
        assert (await ask(session, "/api/stop", data=b"x" * 300_000))[0] in (200, 413)
        with contextlib.suppress(aiohttp.ClientError):
            assert (await ask(session, "/api/stop", headers={"X": "y" * 100_000}))[0] == 400
        assert (await ask(session, "/" + "a" * 7000, "GET"))[0] == 404
        assert (await ask(session, "/api/stop"))[0] == 200
        assert (await until(good, "live"))["kind"] == "live"
        await good.close()

    rig.run(scenario)


def test_more_pages_than_allowed_are_turned_away(rig):
    async def scenario(session):
        sockets = [await open_live(session, rig.tokens.observe) for _ in range(8)]
        for socket in sockets:
            await until(socket, "meta")
        ninth = await session.ws_connect("/live")
        assert (await ninth.receive()).data == 4429
        for socket in sockets:
            await socket.close()

    rig.run(scenario)


def test_a_flood_of_stops_is_answered_and_reaches_the_supervisor_as_few(rig):
    async def scenario(session):
        replies = await asyncio.gather(*(ask(session, "/api/stop") for _ in range(60)))
        assert {status for status, _ in replies} == {200}
        assert 1 <= rig.asked.count("stop") < 60

    rig.run(scenario)


def test_the_dead_mans_word_is_as_old_as_what_the_person_sees(rig):
    async def scenario(session):
        socket = await open_live(session, rig.tokens.operate)
        await until(socket, "meta")
        word = rig.bus.heartbeat
        for wrong in (monotonic_ns() - 10**9, monotonic_ns() + 10**9, 10**30):
            await socket.send_str(json.dumps({"deadman": str(wrong)}))
            await until(socket, "live")
        assert word.age_s("deadman") is None
        shown_ns = monotonic_ns()
        while word.age_s("deadman") is None:  # on a machine that stands still a stamp may come too late
            shown_ns = monotonic_ns()
            await socket.send_str(json.dumps({"deadman": str(shown_ns)}))
            await until(socket, "live")
        assert word.age_s("deadman", shown_ns + 1000) == pytest.approx(1e-6)
        await socket.close()

    rig.run(scenario)


def test_what_is_not_finite_is_shown_as_unknown(rig):
    hopeless = {"remaining_s": np.inf, "velocity_step": np.nan, "seam": 1, "inference_ms": -np.inf, "accepted": 1}
    rig.tick(position=np.full(len(CARD.joints), np.nan), message=b"broken <b>encoder</b>", **hopeless)

    async def scenario(session):
        socket = await open_live(session, rig.tokens.observe)
        await until(socket, "live")
        async with session.get("/api/state", headers=bearer(rig.tokens.observe)) as reply:
            text = await reply.text()
        await socket.close()
        assert "NaN" not in text
        assert "Infinity" not in text
        return json.loads(text)

    live = rig.run(scenario)
    assert live["remaining_s"] is None
    assert live["position"] == [None] * len(CARD.joints)
    assert live["message"] == "broken <b>encoder</b>"
    assert live["setpoint"] is None  # nothing is streamed, so there is none


def test_the_log_says_what_happened_in_the_order_of_its_time(rig):
    rig.tick(state=State.HOLD)
    rig.bus.post_event("start")
    rig.tick(state=State.RUNNING)
    rig.tick(state=State.STOPPING, reason=5, overruns=1)
    rig.tick(state=State.FAULT, reason=8, message=b"the robot's clock stands still")
    feed = Feed(rig.bus, config())
    feed.poll()
    lines = feed.log.since(0)
    assert [line["text"] for line in lines] == [
        "HOLD",
        "asked: start",
        "HOLD to RUNNING",
        "RUNNING to STOPPING (worker_lost)",
        "a tick began too late for its setpoint (1 so far)",
        "STOPPING to FAULT (robot_lost)",
        "the robot's clock stands still",
    ]
    assert lines[5]["level"] == "bad"
    assert feed.log.since(lines[-1]["n"]) == []


def test_the_log_forgets_and_does_not_repeat():
    log = EventLog()
    for k in range(500):
        log.add(k, "info", str(k))
        log.flush()
    assert log.newest == 500
    assert [line["text"] for line in log.since(498)] == ["498", "499"]
    assert len(log.since(0)) == 200


def test_pictures_are_the_newest_and_true(rig):
    from PIL import Image

    image = np.zeros((96, 96, 3), np.uint8)
    image[:, :48, 0], image[:48, :, 1] = 250, 120
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)
    kind, data = encode(image)
    shown = np.asarray(Image.open(io.BytesIO(data)), int)
    assert np.abs(shown - image)[10:40, 10:40].max() < 20  # away from the edges: red is red
    ring, pictures = rig.bus.ring("frames"), Pictures(rig.bus)
    assert pictures.take() == []
    for k in range(3):
        record = np.zeros((), ring.dtype)
        record["time_ns"], record["image/front"] = (k + 1) * 10**6, image
        ring.write(record)
    (message,) = pictures.take()
    assert HEADER.unpack_from(message) == (0, kind, 3.0)
    assert message[HEADER.size :] == data
    assert pictures.take() == []


def test_the_description_is_json_and_complete():
    meta = json.loads(json.dumps(description(config())))
    assert set(meta["ways"]) == {state.name for state in State}
    assert meta["limits"][: len(Limit)] == [limit.name.lower() for limit in Limit]


def test_a_page_for_the_network_and_a_switch_that_nobody_holds_are_refused():
    for wrong in ({"operator": {"host": "0.0.0.0", "port": 0}}, {"deadman": True}, {"operator": {"port": 70000}}):
        with pytest.raises(ConfigError):
            build(DeployConfig, wrong, "deploy")
    assert build(DeployConfig, {"deadman": True, "operator": {"port": 0}}, "deploy").deadman
    assert DeployConfig().operator.port == -1


@pytest.mark.parametrize("held", [True, False])
def test_motion_ends_as_planned_when_the_key_is_let_go(held):
    from test_deploy_arm import Rig as ArmRig

    rig = ArmRig(deadman=True, operator=OperatorConfig(port=0), deadman_timeout_s=0.3).up()

    def step(n, *, beat=True):
        for _ in range(n):
            if beat:
                rig.bus.heartbeat.beat("deadman", rig.clock.now_ns())
            rig.step()

    step(1)
    rig.do("start")
    assert rig.arm.state is State.ALIGNING
    rig.put(rig.chunk(0.06))
    step(25)
    assert rig.arm.state is State.RUNNING
    step(35, beat=held)
    if held:
        assert rig.arm.state is State.RUNNING
        return
    rig.step(60)
    assert rig.arm.state is State.HOLD
    assert rig.reason == "deadman_lost"
    assert rig.clean()
