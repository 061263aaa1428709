"""BC-RNN-GMM trained by our trainer beside robomimic's own, on the same demonstrations for the same steps.

    python tests/claims/policies/robomimic_trainer.py --work runs/claims/robomimic_trainer --out docs/results

Budget: full; 200 demonstrations of pick_place, two trainings of 3,000 steps per side, about fifteen minutes on a core.
``--demonstrations STORE`` takes a store that exists. The store goes through ``robopolicy data export`` into robomimic's
file, the actions in it are scaled to -1..1, as robomimic asks of its users, and the observations once too; then
robomimic's own loader and ``run_epoch`` train. All sides have the same network, batch, rate and optimiser; compared is
the mean negative log likelihood on the same held-out windows (raw weights, lower is better), and samples per CPU
second of training. The control is robomimic on the observations as they are.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import h5py
import numpy as np
import torch

from robopolicy.data.export.engine import export
from robopolicy.data.loader import Loader
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.policies import load_policy
from robopolicy.policies.robomimic_network import _observation_tables, _robomimic, _settings

COMMAND = "python tests/claims/policies/robomimic_trainer.py --work runs/claims/robomimic_trainer --out docs/results"
LR, BATCH, FRACTION = 1e-3, 100, 0.05
MOST_BEHIND_NAT = 1.0
"""Nats per action that ours may be behind robomimic on normalised observations."""
STREAMS = {"state": "state", "object": "environment_state"}


def demonstrations(work: Path, existing: str) -> Path:
    """The store; collected if none is named, continued if cut."""
    if existing:
        return Path(existing)
    store = work / "pick.zarr"
    words = ("task=pick_place", "embodiment=panda", "episodes=200", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def ours(work: Path, store: Path, steps: int) -> tuple[Any, float]:
    """(our policy with its last weights, samples per CPU second)."""
    run, stage = work / f"ours_{steps}", "recipe.stages.policy"
    if not (run / "train.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
        constant = ("schedule=constant", "warmup_steps=0", "clip_norm=0", "weight_decay=0", f"lr={LR}")
        words = ["recipe=pick_place/bc_rnn_gmm", f"{stage}.steps={steps}", f"{stage}.batch_size={BATCH}"]
        words += [*(f"{stage}.optimizer.{word}" for word in constant), f"{stage}.validation.every=0"]
        claim_run.robopolicy("train", *words, "progress=false", f"data={store}", f"out={run}", log=work / "ours.log")
    return load_policy(run, device="cpu", weights="raw"), steps * BATCH / claim_run.recorded_cpu_s(run)


def scaled_file(plain: Path, store: Any, policy: Any, observations: bool) -> Path:
    """A copy of the export with the actions in -1..1, of the training episodes, and the observations too if wanted."""
    path = plain.with_name(f"{'normalised' if observations else 'raw'}.hdf5")
    shutil.copyfile(plain, path)
    training, _ = train_val_episodes(store.num_episodes, FRACTION, 0)
    keep = {f"demo_{index}" for index in training}
    with h5py.File(path, "r+") as file:
        for name in list(file["data"]):
            if name not in keep:
                del file["data"][name]
                continue
            demo = file["data"][name]
            demo["actions"][...] = policy.normalizer.stream("action").normalize(demo["actions"][...])
            for key, stream in STREAMS.items() if observations else ():
                demo["obs"][key][...] = policy.normalizer.stream(stream).normalize(demo["obs"][key][...])
        if "mask" in file:
            del file["mask"]
    return path


def theirs(path: Path, policy: Any, steps: int) -> tuple[dict[str, torch.Tensor], float]:
    """(weights, samples per CPU second) of robomimic's loader, algorithm and ``run_epoch``."""
    modules, settings = _robomimic(), _settings(policy.network.sizes)
    import robomimic.utils.train_utils as train_utils

    with settings.values_unlocked():
        settings.observation.modalities.obs.low_dim = list(STREAMS)
        settings.observation.modalities.goal.low_dim = []
        settings.train.data, settings.train.hdf5_use_swmr = str(path), False
        settings.train.dataset_keys = ["actions"]
        settings.algo.optim_params.policy.learning_rate.initial = LR
    spec = policy.spec
    shapes = OrderedDict(state=[len(spec.embodiment.state)], object=[spec.environment_state])
    torch.manual_seed(0)
    with _observation_tables(settings):
        data, _ = train_utils.load_data_for_training(settings, list(STREAMS))
        loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
        width, device = len(spec.embodiment.action), torch.device("cpu")
        algo = modules.algo.algo_factory("bc", settings, shapes, width, device)
        before = time.process_time()
        train_utils.run_epoch(algo, loader, epoch=1, num_steps=steps)
        spent_s = time.process_time() - before
    weights = algo.nets["policy"].state_dict()
    return {name: value for name, value in weights.items() if "per_step_net" not in name}, steps * BATCH / spent_s


def held_out_nll(policy: Any, store: Any, raw: bool) -> float:
    """Mean over the held-out windows; ``raw`` enters the observations as they are."""
    _, held = train_val_episodes(store.num_episodes, FRACTION, 0)
    spec = policy.spec
    windows = WindowDataset(store, WindowSpec(spec.observation_horizon, spec.prediction_horizon), episodes=held)
    if raw:
        for affine in policy.encoder.low_dim.values():
            affine.scale.fill_(1.0)
            affine.offset.fill_(0.0)
    size = min(BATCH, len(windows))
    batches = Loader(windows, size).batches(np.arange(len(windows) // size * size))
    with torch.no_grad():
        return float(np.mean([float(policy.loss(batch).total) for batch in batches]))


def main() -> None:
    """Train on both sides, compare, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], steps=3000, demonstrations="")
    work, steps = options.work, options.steps
    work.mkdir(parents=True, exist_ok=True)
    path = demonstrations(work, options.demonstrations)
    policy, own_rate = ours(work, path, steps)
    plain = work / "plain.hdf5"
    if not plain.is_file():
        export(path, plain, format="robomimic")
    nll, rate = {}, {"ours": own_rate}
    with EpisodeStore.open(path) as store:
        nll["ours"] = held_out_nll(policy, store, raw=False)
        for side, normalised in (("robomimic, normalised", True), ("robomimic, raw", False)):
            weights, rate[side] = theirs(scaled_file(plain, store, policy, normalised), policy, steps)
            policy.network.actor.load_state_dict(weights)
            nll[side] = held_out_nll(policy, store, raw=not normalised)
    behind = nll["ours"] - nll["robomimic, normalised"]
    failed = nll["robomimic, raw"] - nll["ours"] > MOST_BEHIND_NAT
    result = ClaimResult(
        claim=f"BC-RNN-GMM through the adapter learns as fast as in robomimic's trainer, {steps} steps",
        source="Mandlekar et al. 2021, arXiv 2108.03298; robomimic 0.3",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"held-out negative log likelihood at most {MOST_BEHIND_NAT} nat behind",
        value={
            **{f"nll {side}": round(value, 3) for side, value in nll.items()},
            **{f"samples per CPU second {side}": round(value) for side, value in rate.items()},
        },
        interval=None,
        n=1,
        seeds=(0,),
        control={
            "what": "robomimic's trainer on observations as they are, held-out negative log likelihood",
            "value": round(nll["robomimic, raw"], 3),
            "failed": bool(failed),
        },
        passed=bool(behind <= MOST_BEHIND_NAT and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "policies", "robomimic_trainer")


if __name__ == "__main__":
    main()
