"""Serve a policy to robots elsewhere, over openpi's websocket protocol.

Without a token and a certificate it listens on this machine only. robopolicy deploy takes the address that is printed
in the place of a run; openpi's own clients can ask, too. Ctrl-C ends it. See docs/serving.md.

Examples:
  robopolicy serve runs/pick
  robopolicy serve runs/pick host=0.0.0.0 token_file=server.token tls_cert=cert.pem tls_key=key.pem
  robopolicy serve robopolicy.deploy.scripted:sweep embodiment=panda port=8001
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain

__all__ = ["CONFIG", "ServeConfig", "run"]

BASELINES = ("null", "random")


@dataclass(frozen=True)
class ServeConfig:
    """Keys of ``robopolicy serve``."""

    policy: str = setting("run folder, exported policy, null, random, or module:attribute; also the first argument")
    host: str = setting("address to listen on; beyond this machine only with token and TLS")
    port: int = setting("port; 0: any free one", ge=0, le=65535)
    token_file: str | None = setting("file with the token that clients have to show, mode 0600")
    tls_cert: str | None = setting("certificate chain, PEM")
    tls_key: str | None = setting("its key, PEM")
    embodiment: str | None = setting("card, where the policy does not say it or serves several")
    device: str = setting("torch device")
    weights: Literal["ema", "raw"] = setting("averaged weights, or those of the last step")
    threads: int = setting("threads of torch", ge=1)
    warm_up: int = setting("calls before anybody is let in", ge=0)
    max_clients: int = setting("clients at once", ge=1, le=1024)
    max_frame_mib: float = setting("largest frame, MiB", gt=0, le=1024)
    observation_keys: dict[str, tuple[str, ...]] = setting("where openpi's clients put things")


CONFIG = ServeConfig


def run(argv: Sequence[str]) -> int:
    """Load, warm up, serve until Ctrl-C."""
    config = parse(ServeConfig, "serve", argv, positional=("policy",))
    from robopolicy.deploy.endpoint import read_token
    from robopolicy.deploy.server import PolicyServer
    from robopolicy.deploy.server_config import ServerConfig

    given = ServerConfig(
        host=config.host,
        port=config.port,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        max_clients=config.max_clients,
        max_frame_mib=config.max_frame_mib,
        warm_up=config.warm_up,
        token=read_token(config.token_file),
        keys=config.observation_keys,
    )
    given.check()
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("robopolicy.serve.websockets").setLevel(logging.WARNING)
    policy = _load(config)
    spec = policy.spec
    server = PolicyServer(policy, given)

    def ready(url: str) -> None:
        print(f"serving {config.policy} for {spec.embodiment.name} ({spec.embodiment.hash}) at {url}", flush=True)
        print("robopolicy deploy takes this address in the place of a run; Ctrl-C ends", flush=True)

    server.serve_forever(ready)
    print(f"\nended; {server.answered} answered, {server.refused} refused")
    return 0


def _load(config: ServeConfig) -> Any:
    from robopolicy.embodiment import load_embodiment
    from robopolicy.exported import is_exported
    from robopolicy.registry import load_target

    name = config.policy
    if is_exported(name):
        from robopolicy.export import load_exported

        return load_exported(name, threads=config.threads)
    if Path(name).is_dir():
        import torch

        from robopolicy.policies import load_policy

        torch.set_num_threads(config.threads)
        return load_policy(name, device=config.device, weights=config.weights, embodiment=config.embodiment)
    if name not in BASELINES and ":" not in name:
        allowed = "a run folder, an exported policy, null, random, or module:attribute of a factory"
        raise CommandError(explain("no such policy", given=name, allowed=allowed, mend="correct the path"))
    if config.embodiment is None:
        raise CommandError(explain(f"'{name}' is for no robot in particular", mend="give embodiment=NAME"))
    card = load_embodiment(config.embodiment)
    if name in BASELINES:
        from robopolicy.policies import build_policy

        return build_policy(name, embodiment=card)
    return load_target(name)(card)
