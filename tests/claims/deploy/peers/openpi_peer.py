"""The other side of the claim about openpi; run by the Python of an environment with openpi-client and nothing of ours.

    <peer python> openpi_peer.py client URL OUT.json ROUNDS [TOKEN]
    <peer python> openpi_peer.py server SERVER_FILE ROUNDS

``client`` asks a server through openpi's ``WebsocketClientPolicy`` and writes what it saw: metadata, and of each reply
the bytes of the actions. ``server`` loads openpi's own server module from a file and serves a policy whose answers are
known; it prints its port.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def observation(number: int) -> dict:
    """What the client sends; made alike on both sides."""
    rng = np.random.default_rng(number)
    return {
        "observation/state": rng.uniform(0.3, 0.5, 10),
        "observation/image": rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
        "observation/environment_state": rng.random(3).astype(np.float32),
        "prompt": f"pick {number}",
    }


def actions(state: np.ndarray, image: np.ndarray, prompt: str) -> np.ndarray:
    """float32 [12, 10]: a function of all that was sent, within the range of the arm."""
    digest = hashlib.sha256(state.tobytes() + image.tobytes() + prompt.encode()).digest()
    return np.random.default_rng(list(digest)).uniform(0.35, 0.45, (12, 10)).astype(np.float32)


def client(url: str, out: Path, rounds: int, token: str | None) -> None:
    """Ask, and write down what came."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    host, _, port = url.rpartition(":")
    seen: dict = {"replies": [], "refused": None, "let_in": True}
    try:
        policy = WebsocketClientPolicy(host, int(port), token)
    except Exception as error:
        out.write_text(json.dumps({**seen, "let_in": False, "error": str(error)}))
        return
    seen["metadata"] = json.loads(json.dumps(policy.get_server_metadata(), default=str))
    for number in range(rounds):
        reply = policy.infer(observation(number))
        found = reply["actions"]
        told = [found.dtype.str, found.shape, found.tobytes().hex()] if isinstance(found, np.ndarray) else None
        seen["replies"].append({"actions": told, "timing": sorted(reply.get("server_timing", {}))})
    try:
        policy.infer({"observation/state": np.zeros(3)})
    except RuntimeError as error:
        seen["refused"] = str(error)
    out.write_text(json.dumps(seen))


def server(path: Path, rounds: int) -> None:
    """Serve with openpi's own module until killed; the last round raises."""
    spec = importlib.util.spec_from_file_location("websocket_policy_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Known:
        asked = 0

        def infer(self, obs: dict) -> dict:
            self.asked += 1
            if self.asked > rounds:
                raise ValueError("the model is out of answers")
            made = actions(obs["observation/state"], obs["observation/image"], obs["prompt"])
            return {"actions": made, "policy_timing": {"infer_ms": 0.5}}

    async def run() -> None:
        # the module gives no way to learn a port that the system chose
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        print(port, flush=True)
        await module.WebsocketPolicyServer(Known(), "127.0.0.1", port, {"model": "known", "scale": np.float32(2)}).run()

    asyncio.run(run())


def main() -> None:
    """One of the two."""
    if sys.argv[1] == "client":
        client(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
    else:
        server(Path(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
