"""A policy server and its client survive 100,000 hostile frames: no crash, no other error, no growth.

    python tests/claims/deploy/hostile_frames.py --work runs/hostile --out docs/results

Frames are made from valid ones (bytes changed, cut, doubled), from msgpack with dtypes, shapes and lengths that no
honest peer sends, from deep nesting and from random bytes. All go through ``unpack``; a share goes over a socket to a
running server, a share comes back to a client as replies. Wanted: each frame is read or refused with a FrameError, the
resident memory of reader, server and client grows by less than 50 MB each, and afterwards the server answers an honest
client bit for bit.

Control: the shortest reader that works with honest peers (msgpack's own, dtype and shape given to numpy as they come)
on the same frames, in a process of its own: it has to be killed by one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import claim_run
import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from robopolicy.deploy.array_codec import pack, unpack
from robopolicy.deploy.array_errors import FrameError
from robopolicy.deploy.client_config import ClientConfig, RemoteConfig
from robopolicy.deploy.client_errors import PolicyServerError
from robopolicy.deploy.policy_messages import metadata_of, pack_chunk, pack_observation
from robopolicy.deploy.remote_policy import RemotePolicy
from robopolicy.deploy.scripted import hold
from robopolicy.deploy.server_warm_up import invented_observation
from robopolicy.embodiment import load_embodiment
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator

CARD = load_embodiment("panda")
POLICY = hold(CARD)
MOST_GROWTH_MB = 50.0
WARM_FRAMES = 2000
SERVED_SHARE, REPLIED_SHARE = 0.02, 0.01
DTYPES = ("|O", "O", "<U4", "|S8", "|V8", "<c16", "<M8[ns]", "<f16", "f4,O", "(2,)f4", "<f3", "", "float", ">f8", "|b1")
SHAPES = ([2**40], [-1], [0, 10**12], [2**31, 2**31], [1] * 33, [], [1.5], ["2"], [True], None, [2**63], [-(2**63), 0])
NAIVE = """
import sys, msgpack, numpy as np
def hook(m):
    if b"__ndarray__" in m:
        a = np.ndarray(buffer=m[b"data"], dtype=np.dtype(m[b"dtype"]), shape=m[b"shape"])
        if a.size: str(a.flat[0])
        return a
    return m
for frame in msgpack.Unpacker(open(sys.argv[1], "rb"), max_buffer_size=2**30):
    try:
        msgpack.unpackb(frame, object_hook=hook)
        print("read")
    except Exception as error:
        print(type(error).__name__)
    sys.stdout.flush()
"""


def valid_frames() -> list[bytes]:
    """An observation and a reply as honest peers send them, and small ones."""
    seen = invented_observation(POLICY.spec)
    chunk = POLICY.act(seen, rng=0)
    image = {"image/front": np.zeros((2, 12, 16, 3), np.uint8)}
    return [
        pack(pack_observation(seen, POLICY.spec, obs_id=1, rng=np.random.default_rng(1), prefix=chunk) | image),
        pack(pack_chunk(chunk, 1, 0)),
        pack({"observation/state": np.zeros(10), "prompt": "pick", "x": np.float32(1), "l": [1, 2.5, None, b"ab"]}),
    ]


def hostile_frames(count: int, seed: int) -> Iterator[bytes]:
    """``count`` frames, a pure function of the seed."""
    rng, honest = generator("hostile", seed), valid_frames()
    kinds = (_changed, _cut, _crafted, _announced, _nested, _random)
    shares = (0.45, 0.1, 0.25, 0.05, 0.05, 0.1)
    for kind in rng.choice(len(kinds), count, p=shares):
        yield kinds[kind](rng, honest[rng.integers(len(honest))])


def _changed(rng: np.random.Generator, honest: bytes) -> bytes:
    frame = bytearray(honest)
    # most of a frame is numbers; the structure stands in the first bytes and around the short words
    for _ in range(rng.integers(1, 9)):
        frame[int(rng.integers(len(frame)) ** rng.choice([1.0, 0.7]))] = rng.integers(256)
    return bytes(frame)


def _cut(rng: np.random.Generator, honest: bytes) -> bytes:
    at = int(rng.integers(len(honest)))
    return honest[:at] if rng.random() < 0.7 else honest[:at] + honest


def _crafted(rng: np.random.Generator, honest: bytes) -> bytes:
    data = rng.bytes(int(rng.choice([0, 1, 7, 8, 16, 40])))
    dtype = DTYPES[rng.integers(len(DTYPES))] if rng.random() < 0.7 else "<f4"
    shape = SHAPES[rng.integers(len(SHAPES))] if rng.random() < 0.6 else [len(data) // 8]
    fields = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    if rng.random() < 0.2:
        fields.pop(list(fields)[rng.integers(4)])
    if rng.random() < 0.2:
        number = [300, -1, 1e300, float("nan"), "x", None][rng.integers(6)]
        fields = {b"__npgeneric__": True, b"data": number, b"dtype": dtype}
    return bytes(msgpack.packb({"state": fields, "robopolicy/embodiment": CARD.hash, "actions": fields}))


def _announced(rng: np.random.Generator, honest: bytes) -> bytes:
    """Lengths that are not there: lists and maps of four thousand million, within each other."""
    heads = [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"]
    return b"".join(heads[rng.integers(5)] + rng.bytes(4) for _ in range(rng.integers(1, 50)))


def _nested(rng: np.random.Generator, honest: bytes) -> bytes:
    depth = int(rng.integers(5, 5000))
    return (b"\x91" * depth if rng.random() < 0.5 else b"\x81\xa1a" * depth) + honest


def _random(rng: np.random.Generator, honest: bytes) -> bytes:
    return rng.bytes(int(rng.integers(0, 300)))


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def read_all(count: int) -> tuple[Counter[str], float]:
    """Outcome of ``unpack`` by name, and growth of this process in MB."""
    outcomes: Counter[str] = Counter()
    before = 0.0
    for number, frame in enumerate(hostile_frames(count, 0)):
        if number == min(WARM_FRAMES, count // 2):
            before = resident_mb()
        try:
            unpack(frame, finite=True)
            outcomes["read"] += 1
        except FrameError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            outcomes[f"WRONG: {type(error).__name__}"] += 1
    return outcomes, resident_mb() - before


def attack_server(count: int, log: Path) -> dict[str, object]:
    """Send frames to a server in a process of its own; each refusal costs a connection."""
    words = ["serve", "robopolicy.deploy.scripted:hold", "embodiment=panda", "port=0"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "robopolicy", *words], stdout=subprocess.PIPE, stderr=stream, text=True
        )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split(" at ")[1].strip()
        outcomes: Counter[str] = Counter()
        before, link = 0.0, None
        for number, frame in enumerate(hostile_frames(count, 1)):
            if number == count // 4:
                before = resident_mb(server.pid)
            if link is None:
                link = connect(url, compression=None, max_size=None, proxy=None, close_timeout=1).__enter__()
                link.recv(20)
            try:
                link.send(frame)
                reply = link.recv(20)
                outcomes["refused" if isinstance(reply, str) else "answered"] += 1
                if isinstance(reply, str) and ("Traceback" in reply or ".py" in reply):
                    outcomes["WRONG: leaks"] += 1
                if isinstance(reply, bytes):
                    continue
            except ConnectionClosed:
                outcomes["closed"] += 1
            link.close()
            link = None
        if link is not None:
            link.close()
        growth = resident_mb(server.pid) - before
        seen = invented_observation(POLICY.spec)
        with RemotePolicy(CARD, url, RemoteConfig(ClientConfig(deadline_s=20, connect_timeout_s=20))) as policy:
            honest = policy.act(seen, rng=0).values.tobytes() == POLICY.act(seen, rng=0).values.tobytes()
        return {
            "outcomes": dict(outcomes),
            "growth_mb": round(growth, 1),
            "honest": honest,
            "alive": server.poll() is None,
        }
    finally:
        server.terminate()
        server.communicate(timeout=30)


def attack_client(count: int) -> dict[str, object]:
    """Frames as replies to a client in this process."""
    sys.path.insert(0, str(claim_run.ROOT / "tests" / "deploy"))
    from serving_fixtures import FakeServer, answer, ask

    frames = hostile_frames(count, 2)

    async def talk(connection):
        while True:
            message = await ask(connection)
            frame = next(frames, None)
            await connection.send(pack(answer(message)) if frame is None else frame)

    outcomes: Counter[str] = Counter()
    seen, before = invented_observation(POLICY.spec), 0.0
    # a reply that is read as one to another request is waited out
    config = RemoteConfig(ClientConfig(deadline_s=0.2, connect_timeout_s=20))
    with FakeServer(talk, metadata_of(POLICY)) as server, RemotePolicy(CARD, server.url, config) as policy:
        for number in range(count):
            if number == count // 4:
                before = resident_mb()
            try:
                policy.act(seen, rng=0)
                outcomes["believed"] += 1
            except PolicyServerError as error:
                outcomes[type(error).__name__] += 1
            except Exception as error:
                outcomes[f"WRONG: {type(error).__name__}"] += 1
        honest = any(_chunk(policy, seen) for _ in range(10))  # the first may still take what was owed
    return {"outcomes": dict(outcomes), "growth_mb": round(resident_mb() - before, 1), "honest": honest}


def _chunk(policy: RemotePolicy, seen: object) -> bool:
    try:
        return policy.act(seen, rng=0).values.shape == (15, 10)  # type: ignore[arg-type]
    except PolicyServerError:
        return False


def naive(count: int, work: Path) -> dict[str, object]:
    """The control: begun anew behind each frame that kills it."""
    frames, outcomes, at, deaths = list(hostile_frames(count, 0)), Counter(), 0, 0
    script, path = work / "naive.py", work / "naive.bin"
    script.write_text(NAIVE)
    while at < len(frames) and deaths < 5:
        path.write_bytes(b"".join(msgpack.packb(frame) for frame in frames[at:]))
        command = ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", sys.executable, str(script), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = done.stdout.split()
        outcomes.update(words)
        at += len(words)
        if done.returncode < 0:
            deaths, at = deaths + 1, at + 1
            outcomes[f"killed by signal {-done.returncode}"] += 1
        elif at < len(frames):
            raise SystemExit(f"the control ended early: {done.stderr[-500:]}")
    return {"outcomes": dict(outcomes), "deaths": deaths}


def main() -> None:
    """Attack all three, and the control."""
    options = claim_run.arguments(__doc__ or "", frames=100_000)
    options.work.mkdir(parents=True, exist_ok=True)
    begin, count = time.monotonic(), options.frames
    served, replied = max(40, round(count * SERVED_SHARE)), max(40, round(count * REPLIED_SHARE))
    outcomes, growth = read_all(count)
    server = attack_server(served, options.work / "server.log")
    client = attack_client(replied)
    control = naive(min(count, 2000), options.work)
    counted = [outcomes, server["outcomes"], client["outcomes"]]
    wrong = {k: v for some in counted for k, v in dict(some).items() if k.startswith("WRONG")}
    largest = max(growth, float(str(server["growth_mb"])), float(str(client["growth_mb"])))
    survived = not wrong and bool(server["alive"] and server["honest"] and client["honest"])
    failed = int(str(control["deaths"])) > 0
    result = ClaimResult(
        claim=f"{count:,} hostile frames at the reader, {served:,} at a live server and {replied:,} at a client "
        "neither crash them, nor raise anything but a refusal, nor make them grow",
        source="openpi's websocket protocol with msgpack arrays, whose own reader takes any dtype and shape",
        command="python tests/claims/deploy/hostile_frames.py --work runs/hostile --out docs/results",
        commit=claim_run.commit(),
        target=f"no crash, no other error, growth < {MOST_GROWTH_MB:.0f} MB",
        value={
            "wrong": wrong,
            "growth MB": {"reader": round(growth, 1), "server": server["growth_mb"], "client": client["growth_mb"]},
            "reader": dict(outcomes.most_common()),
            "server": server["outcomes"],
            "client": client["outcomes"],
            "answers an honest client afterwards": server["honest"],
            "wall s": round(time.monotonic() - begin, 1),
        },
        interval=None,
        n=count + served + replied,
        seeds=[0, 1, 2],
        control={
            "what": "msgpack and numpy without checks, on the first 2,000 frames",
            "value": control,
            "failed": failed,
        },
        passed=bool(survived and largest < MOST_GROWTH_MB and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "hostile_frames")


if __name__ == "__main__":
    main()
