"""LeRobot's DiffusionPolicy on arrays, in LeRobot's own environment: trains by the minute, then answers observations.

    PEER/bin/python lerobot_diffusion.py train DATA.npz OUT --minutes 8
    PEER/bin/python lerobot_diffusion.py serve OUT        # requests on standard input, see process_policy.py

Imports lerobot, torch and numpy, nothing of robopolicy. DATA.npz (process_policy.export) holds state f32 [N, S],
environment_state f32 [N, E], action f32 [N, A] and episode_ends int64 [M].

LeRobot 0.4.4's own: the policy class, its loss and normalisers, Adam with its preset, gradient norm 10, cosine with
500 steps of warm-up, no window that begins in the last 7 rows of an episode, To=2 Tp=16 Ta=8, no averaged weights. Set
otherwise, all in its favour on two cores: U-Net (64, 128, 256) in the place of (512, 1024, 2048), which does some 20
steps in eight minutes; DDIM with 10 steps in the place of DDPM with 100; the environment state scaled to [-1, 1], which
its defaults leave as it is; windows gathered from arrays in memory in the place of its data set. The steps are fixed
before training as robopolicy fixes them: a few are timed and divide what is left of the minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from safetensors.torch import load_file, save_file

STREAMS = {"observation.state": "state", "observation.environment_state": "environment_state", "action": "action"}
WARM_UP, LEAST, SHARE = 5, 5, 0.02
"""Of the measurement, as in robopolicy/training/budget.py."""


def build(settings: dict, statistics: dict[str, dict[str, np.ndarray]]) -> tuple[DiffusionPolicy, object, object]:
    """Policy, normaliser of batches, inverse for actions."""
    widths = {name: len(values["min"]) for name, values in statistics.items()}
    kinds = {"observation.state": FeatureType.STATE, "observation.environment_state": FeatureType.ENV}
    config = DiffusionConfig(
        input_features={name: PolicyFeature(kind, (widths[name],)) for name, kind in kinds.items()},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (widths["action"],))},
        normalization_mapping={
            "STATE": NormalizationMode.MIN_MAX,
            "ACTION": NormalizationMode.MIN_MAX,
            "ENV": NormalizationMode[settings["environment"]],
        },
        down_dims=tuple(settings["down"]),
        noise_scheduler_type=settings["scheduler"],
        num_inference_steps=settings["inference_steps"],
        device="cpu",
    )
    tensors = {n: {k: torch.as_tensor(v, dtype=torch.float32) for k, v in s.items()} for n, s in statistics.items()}
    forward, backward = make_diffusion_pre_post_processors(config, dataset_stats=tensors)
    return DiffusionPolicy(config), forward, backward


class Windows:
    """Batches in shuffled epochs; rows beyond an episode repeat its first or last row and are marked as padding."""

    def __init__(self, arrays: dict[str, np.ndarray], config: DiffusionConfig, seed: int):
        ends = arrays["episode_ends"]
        starts = np.concatenate([[0], ends[:-1]])
        lengths = ends - starts
        kept = [np.arange(a, max(b - config.drop_n_last_frames, a + 1)) for a, b in zip(starts, ends, strict=True)]
        self.rows, self.arrays = np.concatenate(kept), arrays
        self.first, self.last = np.repeat(starts, lengths), np.repeat(ends - 1, lengths)
        self.seen, self.ahead = (np.array(getattr(config, f"{k}_delta_indices")) for k in ("observation", "action"))
        self.random = np.random.default_rng(seed)
        self.order = np.zeros(0, np.int64)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Of unnormalised windows."""
        while len(self.order) < size:
            self.order = np.concatenate([self.order, self.random.permutation(self.rows)])
        rows, self.order = self.order[:size, None], self.order[size:]
        first, last = self.first[rows], self.last[rows]
        seen, wanted = np.maximum(rows + self.seen, first), rows + self.ahead
        done = np.clip(wanted, first, last)
        found = {name: self.arrays[key][done if name == "action" else seen] for name, key in STREAMS.items()}
        return {n: torch.from_numpy(v) for n, v in found.items()} | {"action_is_pad": torch.from_numpy(done != wanted)}


class Training:
    """Policy, optimiser, schedule; one place for what a snapshot holds."""

    def __init__(self, arrays: dict[str, np.ndarray], settings: dict, steps: int):
        torch.manual_seed(settings["seed"])
        statistics = {
            name: {kind: getattr(arrays[key], kind)(0) for kind in ("min", "max", "mean", "std")}
            for name, key in STREAMS.items()
        }
        self.settings, self.statistics = settings, statistics
        self.policy, self.forward, _ = build(settings, statistics)
        self.optimizer = self.policy.config.get_optimizer_preset().build(self.policy.get_optim_params())
        warm_up = self.policy.config.scheduler_warmup_steps
        self.schedule = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=warm_up, num_training_steps=max(steps, 1)
        )
        self.windows = Windows(arrays, self.policy.config, settings["seed"])
        self.policy.train()

    def step(self) -> float:
        """One update; its loss."""
        batch = self.forward(self.windows.batch(self.settings["batch"]))
        keys = (*STREAMS, "action_is_pad")
        loss, _ = self.policy.forward({key: batch[key] for key in keys})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return loss.item()

    def save(self, folder: Path, record: dict) -> None:
        """What ``serve`` needs; the record last, so that a folder with one is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.policy.state_dict().items()}, folder / "model.safetensors")
        plain = {n: {k: np.asarray(v, float).tolist() for k, v in s.items()} for n, s in self.statistics.items()}
        document = {"settings": self.settings, "statistics": plain, **record}
        part = folder / "record.json.part"
        part.write_text(json.dumps(document))
        part.rename(folder / "record.json")


def measured_steps(arrays: dict[str, np.ndarray], settings: dict) -> tuple[int, dict]:
    """Steps that fit into the minutes, and what was measured."""
    begin = time.monotonic()
    trial = Training(arrays, settings, 1000)
    for _ in range(WARM_UP):
        trial.step()
    warmed, done = time.monotonic(), 0
    budget_s = 60.0 * settings["minutes"]
    while done < LEAST or time.monotonic() - warmed < SHARE * budget_s:
        trial.step()
        done += 1
    end = time.monotonic()
    step_s = (end - warmed) / done
    return max(1, int((budget_s - (end - begin)) / step_s)), {"step_s": step_s, "measured_s": end - begin}


def train(options: argparse.Namespace) -> None:
    """Until the steps are done; snapshots at growing times, if asked for."""
    torch.set_num_threads(options.threads)
    arrays = dict(np.load(options.data))
    settings = {key: getattr(options, key) for key in ("minutes", "batch", "seed", "scheduler", "environment")}
    settings |= {"down": [int(w) for w in options.down.split(",")], "inference_steps": options.inference_steps}
    settings["inference_steps"] = settings["inference_steps"] or None
    steps, measured = (options.steps, {}) if options.steps else measured_steps(arrays, settings)
    training = Training(arrays, settings, steps)
    wall, cpu, saving = time.monotonic(), time.process_time(), 0.0
    wanted_s = options.first_snapshot_s
    losses: list[float] = []
    for step in range(1, steps + 1):
        losses.append(training.step())
        spent = time.monotonic() - wall - saving
        snapshot = bool(wanted_s) and spent >= wanted_s
        if snapshot or step == steps:
            record = {"step": step, "steps": steps, "wall_s": spent, "cpu_s": time.process_time() - cpu, **measured}
            record |= {"loss": float(np.mean(losses)), "threads": options.threads, "versions": versions()}
            begin = time.monotonic()
            training.save(options.out / f"step_{step:08d}", record)
            if step == steps:
                training.save(options.out, record)
            wanted_s = wanted_s * options.growth if snapshot else wanted_s
            saving += time.monotonic() - begin
            losses.clear()
            print(f"step {step} of {steps}, {spent:.0f} s, loss {record['loss']:.4f}", flush=True)


def versions() -> dict[str, str]:
    """Of what decides the result."""
    from importlib import metadata

    return {name: metadata.version(name) for name in ("lerobot", "torch", "diffusers", "numpy")}


def serve(options: argparse.Namespace) -> None:
    """Answer chunks until standard input ends. Request: u64 seed, f32 [To, S], f32 [To, E]; answer: f32 [Ta, A]."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    torch.set_num_threads(options.threads)
    record = json.loads((options.out / "record.json").read_text())
    statistics = {n: {k: np.array(v, np.float32) for k, v in s.items()} for n, s in record["statistics"].items()}
    policy, forward, backward = build(record["settings"], statistics)
    policy.load_state_dict(load_file(options.out / "model.safetensors"))
    policy.eval()
    past = policy.config.n_obs_steps
    shapes = {name: (1, past, len(statistics[name]["min"])) for name in list(STREAMS)[:2]}
    size = 8 + 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    while len(request := sys.stdin.buffer.read(size)) == size:
        torch.manual_seed(int.from_bytes(request[:8], "little") % 2**63)
        flat, at, batch = np.frombuffer(request, np.float32, offset=8), 0, {}
        for name, shape in shapes.items():
            batch[name] = torch.from_numpy(flat[at : at + int(np.prod(shape))].reshape(shape).copy())
            at += int(np.prod(shape))
        with torch.inference_mode():
            seen = forward(batch)
            chunk = policy.diffusion.generate_actions({name: seen[name] for name in shapes})
            values = backward(chunk)
        answers.write(np.ascontiguousarray(values[0].numpy(), np.float32).tobytes())
        answers.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train")
    one.add_argument("data", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--minutes", type=float, default=8.0)
    one.add_argument("--steps", type=int, default=0, help="instead of minutes")
    one.add_argument("--batch", type=int, default=64)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--down", default="64,128,256")
    one.add_argument("--scheduler", choices=("DDIM", "DDPM"), default="DDIM")
    one.add_argument("--inference-steps", type=int, default=10, help="0: as many as in training")
    one.add_argument("--environment", choices=("MIN_MAX", "IDENTITY"), default="MIN_MAX")
    one.add_argument("--first-snapshot-s", type=float, default=0.0)
    one.add_argument("--growth", type=float, default=1.25)
    two = commands.add_parser("serve")
    two.add_argument("out", type=Path)
    two.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    (train if options.command == "train" else serve)(options)


if __name__ == "__main__":
    main()
