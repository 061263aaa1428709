"""What the tests of policy server and client share: a policy to be served, and servers that are not ours."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import numpy as np

from robopolicy.deploy.array_codec import pack, unpack
from robopolicy.deploy.policy_messages import OBS_ID, metadata_of, pack_chunk
from robopolicy.deploy.scripted import ScriptedPolicy
from robopolicy.deploy.server_warm_up import invented_observation
from robopolicy.embodiment import load_embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk

__all__ = ["CARD", "FakeServer", "NoisyPolicy", "answer", "ask", "certificate", "seen_by", "token_file", "until"]

CARD = load_embodiment("panda")


class NoisyPolicy(ScriptedPolicy):
    """Reads two cameras; draws its chunk from the randomness, the observation and the prefix, so all must arrive."""

    gate = None

    @property
    def spec(self):
        return PolicySpec(CARD, 2, 8, 16, cameras=("front", "wrist"), environment_state=3, continues=True)

    def act(self, observation, *, rng, prefix=None, goal=None):
        if self.gate is not None and observation.language == "wait":
            self.gate.wait(20)
        if observation.language == "raise":
            raise ValueError("secret of /home/someone/weights")
        noise = np.random.default_rng(rng)
        group = CARD.action
        values = group.lower + (group.upper - group.lower) * noise.random((15, len(group)))
        values += 1e-3 * observation.image["front"].mean() / 255 + 1e-3 * observation.image["wrist"][-1, 0, 0, 0] / 255
        values += 1e-3 * observation.state[-1] + 1e-3 * observation.environment_state.sum()
        if prefix is not None:
            values[: len(prefix.values)] += 1e-3 * prefix.values * prefix.valid[:, None] * prefix.horizon
        if observation.language == "nan":
            values[3, 2] = np.nan
        t0_ns = int(observation.time_ns[-1])
        return ActionChunk(values, t0_ns, CARD.control_dt_s, CARD.hash, valid=np.arange(15) < 12, horizon=8)


def seen_by(policy, seed=0, language=""):
    """An observation that fits, of random content."""
    rng = np.random.default_rng(seed)
    blank = invented_observation(policy.spec)
    images = {name: rng.integers(0, 256, image.shape, np.uint8) for name, image in blank.image.items()}
    state = (blank.state + 0.1 * rng.standard_normal(blank.state.shape)).astype(np.float32)
    return dataclasses.replace(
        blank,
        state=state,
        image=images,
        environment_state=None if blank.environment_state is None else rng.random(blank.environment_state.shape),
        time_ns=blank.time_ns + 10**15 + seed,
        language=language,
    )


def answer(message, policy=None, **changed):
    """A correct reply to one of our observations, with some of it changed; a value of ``...`` leaves it out."""
    group = CARD.action
    values = np.repeat(((group.lower + group.upper) / 2)[None], 15, axis=0)
    t0_ns = int(message["robopolicy/time_ns"][-1])
    chunk = ActionChunk(values, t0_ns, CARD.control_dt_s, CARD.hash, horizon=8)
    reply = pack_chunk(chunk, message.get(OBS_ID), 0)
    reply.update(changed)
    return {key: value for key, value in reply.items() if value is not ...}


class FakeServer:
    """A websocket server whose conversation is a coroutine ``talk(connection)``; starts and stops by itself.

    Args:
        talk: Called for every connection after the metadata were sent.
        metadata: What is said first; bytes or text are sent as they are.
        port: 0 for any.
    """

    def __init__(self, talk, metadata=None, port=0):
        self.talk, self.port, self.connections = talk, port, 0
        told = metadata_of(ScriptedPolicy(CARD)) if metadata is None else metadata
        self.greeting = told if isinstance(told, (bytes, str)) else pack(told)
        self._ready, self._loop, self._stop = threading.Event(), None, None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    async def stopped(self):
        """Until the server is told to end."""
        await self._stop.wait()

    async def _serve(self):
        from websockets.asyncio.server import serve

        async def handle(connection):
            from websockets.exceptions import ConnectionClosed

            self.connections += 1
            with contextlib.suppress(ConnectionClosed):
                await connection.send(self.greeting)
                await self.talk(connection)

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve(handle, "127.0.0.1", self.port, compression=None, max_size=None, close_timeout=0.1) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


async def ask(connection):
    """The next observation of a connection."""
    return unpack(await connection.recv())


def until(condition, what, timeout_s=20.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.002)


def certificate(folder):
    """A certificate of its own authority for 127.0.0.1. -> paths of certificate and key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "policy server")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return str(cert_path), str(key_path)


def token_file(folder, token="a-token-of-32-characters-length!", mode=0o600):
    """A file with a token."""
    path = folder / "token"
    path.write_text(token + "\n")
    path.chmod(mode)
    return str(path)
