"""LeRobot's diffusion policy, answering speed requests on standard input; run by bench_policies.py in its environment.

Each line is ``train BATCH STEPS`` or ``chunk COUNT``; the answer is ``SPEED wall_s cpu_s`` of all of them together.
"""

import sys
import time

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

WIDTH, TO, TP = 10, 2, 16


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    config = DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (WIDTH,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (WIDTH,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (WIDTH,))},
        down_dims=(64, 128, 256),
        diffusion_step_embed_dim=128,
        noise_scheduler_type="DDIM",
        num_inference_steps=10,
        device="cpu",
    )
    policy = DiffusionPolicy(config)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    ema = None
    if "ema" in sys.argv:
        from diffusers.training_utils import EMAModel

        ema = EMAModel(policy.parameters(), use_ema_warmup=True, power=0.75)

    def batch(rows: int) -> dict[str, torch.Tensor]:
        return {
            "observation.state": torch.randn(rows, TO, WIDTH),
            "observation.environment_state": torch.randn(rows, TO, WIDTH),
            "action": torch.randn(rows, TP, WIDTH).clamp(-1, 1),
            "action_is_pad": torch.zeros(rows, TP, dtype=torch.bool),
        }

    print("READY", sum(p.numel() for p in policy.parameters()), flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "train":
            rows, count = map(int, numbers)
            given = batch(rows)
            policy.train()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                loss, _ = policy(given)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if ema is not None:
                    ema.step(policy.parameters())
        else:
            given, count = batch(1), int(numbers[0])
            policy.eval()
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.no_grad():
                for _ in range(count):
                    policy.diffusion.generate_actions(given)
        print("SPEED", time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
