"""Our diffusion policy, answering speed requests as policy_speed_peer.py does; run by bench_policies.py.

    python policy_speed_ours.py THREADS [plain] [family:network]

``plain`` takes the U-Net layer by layer. A chunk is all of ``act``, with its checks and the way to physical units.
"""

import sys
import time

import numpy as np
import torch

from robopolicy.embodiment import load_embodiment
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy
from robopolicy.training.ema import Ema
from robopolicy.training.optim import make_optimizer
from robopolicy.training.recipe import EmaConfig, OptimizerConfig
from robopolicy.types import Batch, Observation

WIDTH, TO, TP = 10, 2, 16


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    card = load_embodiment("panda")
    assert len(card.state) == len(card.action) == WIDTH
    box = {n: {"min": c.lower, "max": c.upper} for n, c in (("state", card.state), ("action", card.action))}
    box["environment_state"] = {"min": -np.ones(WIDTH), "max": np.ones(WIDTH)}
    family, _, network = next((a for a in sys.argv[2:] if ":" in a), "diffusion:unet").partition(":")
    parameters = {"network": network, "masked_loss": False, "sampler": {"steps": 10}}
    if network == "unet":
        parameters["unet"] = {"down": [64, 128, 256], "step_dim": 128}
    normalizer = Normalizer.from_statistics(box, card)
    policy = build_policy(family, parameters, embodiment=card, normalizer=normalizer, environment_state=WIDTH)
    if "plain" in sys.argv:
        policy.network.by_taps = False
    optimizer, ema = make_optimizer(policy, OptimizerConfig()), Ema(policy, EmaConfig())
    rng = torch.Generator().manual_seed(0)
    print("READY", sum(p.numel() for p in policy.parameters()), flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "train":
            rows, count = map(int, numbers)
            batch = Batch(
                state=torch.randn(rows, TO, WIDTH),
                environment_state=torch.randn(rows, TO, WIDTH),
                action=torch.randn(rows, TP, WIDTH),
                action_mask=torch.ones(rows, TP, WIDTH, dtype=torch.bool),
                embodiment=card.hash,
            )
            policy.train()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                policy.loss(batch, rng=rng).total.backward()
                optimizer.step()
                optimizer.zero_grad()
                ema.step()
        else:
            state = np.repeat((card.state.lower * 0.4 + card.state.upper * 0.6)[None], TO, axis=0).astype(np.float32)
            times = np.array([1_000_000_000, 1_050_000_000])
            environment = np.zeros((TO, WIDTH), np.float32)
            seen = Observation(state=state, time_ns=times, embodiment=card.hash, environment_state=environment)
            policy.eval()
            wall, cpu = time.perf_counter(), time.process_time()
            for seed in range(int(numbers[0])):
                policy.act(seen, rng=seed)
        print("SPEED", time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
