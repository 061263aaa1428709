"""openpi's own client works with our server, and our client with openpi's own server.

    git clone https://github.com/Physical-Intelligence/openpi        # for the second half
    python tests/claims/deploy/openpi_conformance.py --work runs/pi --openpi openpi --out docs/results

Builds an environment of its own below --work (openpi-client needs numpy < 2) and runs ``peers/openpi_peer.py`` in it.

- Their client, our server: metadata, ``--rounds`` replies that are bit for bit the chunks of the policy in this
  process, the server's timing, our refusal as their RuntimeError, the Api-Key header right, wrong and missing.
- Our client, their server file: the same number of chunks, equal to what their policy returned (float32 columns, turned
  into the card's channels by name), their traceback as ServerSaidError. Without --openpi this half is not run, and the
  claim is not reached.

Control: a server that sends its actions as plain lists, which msgpack allows and openpi's client does not understand as
arrays, has to be found out by the same comparison.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy"))
import claim_run
import numpy as np
from openpi_peer import actions, observation
from serving_fixtures import FakeServer, NoisyPolicy, ask

from robopolicy.deploy.array_codec import pack
from robopolicy.deploy.client_config import ClientConfig, RemoteConfig
from robopolicy.deploy.client_errors import ServerSaidError
from robopolicy.deploy.endpoint import read_token
from robopolicy.deploy.remote_policy import RemotePolicy
from robopolicy.deploy.scripted import hold
from robopolicy.deploy.server import ServerThread
from robopolicy.deploy.server_config import ServerConfig
from robopolicy.deploy.server_observation import OPENPI_KEYS, ObservationError, read_request
from robopolicy.deploy.server_warm_up import invented_observation
from robopolicy.embodiment import load_embodiment
from robopolicy.evaluation.claims import ClaimResult

PEER = Path(__file__).resolve().parent / "peers" / "openpi_peer.py"
CLIENT_VERSION = "0.1.2"
# openpi-client imports typing_extensions without saying that it needs it
PACKAGES = (f"openpi-client=={CLIENT_VERSION}", "typing_extensions")
SERVER_FILE = "src/openpi/serving/websocket_policy_server.py"
CARD = load_embodiment("panda")
MAPPING = """# robopolicy deploy ws://127.0.0.1:8000 deploy.remote.mapping=claim
state: {{observation/state: [{names}]}}
images: {{observation/image: front}}
actions: [{names}]
action_horizon: 8
"""


def peer_python(work: Path) -> Path:
    """The interpreter of the peer's environment; built on the first run."""
    python = work / "venv" / "bin" / "python"
    if not (work / "venv" / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(work / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (work / "venv" / "complete").touch()
    return python


def their_client(python: Path, url: str, out: Path, rounds: int, token: str | None = None) -> dict[str, Any]:
    """What openpi's client saw of a server."""
    command = [
        str(python),
        "-W",
        "ignore",
        str(PEER),
        "client",
        url,
        str(out),
        str(rounds),
    ]
    subprocess.run([*command, *([token] if token else [])], check=True, timeout=300)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def agreed(seen: dict[str, Any], rounds: int) -> int:
    """Replies whose actions are those of the policy in this process, bit for bit."""
    policy, equal = NoisyPolicy(CARD), 0
    for number, reply in zip(range(rounds), seen["replies"], strict=True):
        request = read_request(observation(number), policy.spec, OPENPI_KEYS)
        values = policy.act(request.observation, rng=request.rng).values
        equal += reply["actions"] == [values.dtype.str, list(values.shape), values.tobytes().hex()]
    return equal


def first_half(python: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Their client at our server."""
    token_path = work / "token"
    token_path.touch(0o600)
    token_path.write_text("token-of-the-conformance-claim")
    token, found = read_token(token_path), {}
    with ServerThread(NoisyPolicy(CARD)) as open_server:
        seen = their_client(python, open_server.url, work / "client.json", rounds)
    with ServerThread(NoisyPolicy(CARD), ServerConfig(port=0, token=token)) as guarded:
        right = their_client(python, guarded.url, work / "right.json", 1, token)
        wrong = their_client(python, guarded.url, work / "wrong.json", 1, "another-token-altogether")
        missing = their_client(python, guarded.url, work / "missing.json", 1)
    found["replies equal bit for bit"] = agreed(seen, rounds)
    found["metadata read"] = seen["metadata"]["robopolicy"]["embodiment"]["hash"] == CARD.hash
    found["timing read"] = (
        "infer_ms" in seen["replies"][0]["timing"] and "prev_total_ms" in seen["replies"][-1]["timing"]
    )
    found["refusal is their RuntimeError"] = "no state" in seen["refused"] or "no environment_state" in seen["refused"]
    found["token right, wrong, missing"] = [right["let_in"], wrong["let_in"], missing["let_in"]] == [True, False, False]
    return found


def second_half(python: Path, work: Path, repository: str, rounds: int) -> dict[str, Any]:
    """Our client at their server file."""
    shown = ["git", "-C", repository, "show", f"HEAD:{SERVER_FILE}"]
    path = work / "websocket_policy_server.py"
    path.write_bytes(subprocess.run(shown, capture_output=True, check=True).stdout)
    command = [str(python), "-W", "ignore", str(PEER), "server", str(path), str(rounds)]
    names, policy = ", ".join(CARD.action.names), hold(CARD)
    mappings = work / "configs" / "policy_server"
    mappings.mkdir(parents=True, exist_ok=True)
    (mappings / "claim.yaml").write_text(MAPPING.format(names=names))
    equal, told = 0, ""
    blank = invented_observation(dataclasses.replace(policy.spec, cameras=("front",), observation_horizon=1))
    with (work / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        url = f"ws://127.0.0.1:{process.stdout.readline().strip()}"
        remote = RemoteConfig(ClientConfig(deadline_s=30, connect_timeout_s=30), mapping="claim")
        with RemotePolicy(CARD, url, remote) as ours:
            for number in range(rounds):
                image = observation(number)["observation/image"]
                seen = dataclasses.replace(blank, image={"front": image[None]}, language=f"pick {number}")
                chunk = ours.act(seen, rng=0)
                expected = actions(seen.state[-1], image, seen.language).astype(float)
                equal += chunk.values.tobytes() == expected.tobytes() and chunk.t0_ns == int(seen.time_ns[-1])
            try:
                ours.act(seen, rng=0)
            except ServerSaidError as error:
                told = str(error)
            metadata = ours.client.metadata
    finally:
        process.kill()
        process.communicate()
    return {
        "chunks equal bit for bit": equal,
        "metadata read": metadata == {"model": "known", "scale": np.float32(2)},
        "their traceback is our ServerSaidError": "Traceback" in told,
    }


def broken_server(python: Path, work: Path) -> int:
    """Replies of a server with lists for arrays that pass the comparison; none should."""

    async def talk(connection: Any) -> None:
        while True:
            message = await ask(connection)
            try:
                request = read_request(message, NoisyPolicy(CARD).spec, OPENPI_KEYS)
            except ObservationError as error:
                await connection.send(str(error))
                return
            values = NoisyPolicy(CARD).act(request.observation, rng=request.rng).values
            await connection.send(pack({"actions": values.tolist()}))

    with FakeServer(talk, {}) as server:
        return agreed(their_client(python, server.url, work / "broken.json", 2), 2)


def main() -> None:
    """Both halves and the control."""
    options = claim_run.arguments(__doc__ or "", openpi="", rounds=50)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = peer_python(work)
    os.environ["ROBOPOLICY_CONFIG_PATH"] = str(work / "configs")
    first = first_half(python, work, options.rounds)
    second = second_half(python, work, options.openpi, options.rounds) if options.openpi else None
    control = broken_server(python, work)

    def whole(half: dict[str, Any] | None) -> bool:
        return half is not None and all(v is True or v == options.rounds for v in half.values())

    result = ClaimResult(
        claim="openpi's own client works with our policy server, and our client with openpi's own server",
        source=f"openpi-client {CLIENT_VERSION}; {SERVER_FILE} of github.com/Physical-Intelligence/openpi",
        command="python tests/claims/deploy/openpi_conformance.py --work runs/pi --openpi openpi --out docs/results",
        commit=claim_run.commit(),
        target=f"{options.rounds} of {options.rounds} chunks equal bit for bit in both directions, all checks true",
        value={"their client, our server": first, "our client, their server": second or "not run: no --openpi"},
        interval=None,
        n=2 * options.rounds if second else options.rounds,
        seeds=[],
        control={
            "what": "replies of a server with lists for arrays that pass",
            "value": control,
            "failed": control == 0,
        },
        passed=whole(first) and whole(second) and control == 0,
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "openpi_conformance")


if __name__ == "__main__":
    main()
