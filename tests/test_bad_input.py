"""Bad input through the command line: each gets exit code 2 and a message that says what to do, and loses nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import NonFiniteError, ShapeError
from robopolicy.policies import load_policy
from robopolicy.sim.collect import collect
from robopolicy.types import Observation

SMALL = (
    *("recipe=pick_place/diffusion", "progress=false", "recipe.threads=1", "recipe.stages.policy.steps=2"),
    *("recipe.stages.policy.batch_size=8", "recipe.stages.policy.parameters.unet.down=[8,16]"),
    *("recipe.stages.policy.parameters.unet.step_dim=8", "recipe.stages.policy.validation.every=0"),
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A store of two episodes and a run of two steps."""
    folder = tmp_path_factory.mktemp("bad_input")
    collect("pick_place", "panda", 2, folder / "pick.zarr")
    assert main(["train", *SMALL, f"data={folder / 'pick.zarr'}", f"out={folder / 'run'}"]) == 0
    return folder


def refused(capsys, *words: object) -> str:
    """Exit code 2; the message."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def test_unknown_key_has_a_suggestion_and_all_problems_come_together(room, capsys):
    message = refused(
        capsys,
        "train",
        f"data={room / 'pick.zarr'}",
        "recipe.sed=1",
        "recipe.device=gpu",
        "recipe.stages.policy.steps=0",
    )
    assert "did you mean 'recipe.seed'" in message or "did you mean 'seed'" in message
    assert "3 problems" in message or "4 problems" in message  # out= is missing too
    for part in ("recipe.device", "recipe.stages.policy.steps", "out"):
        assert part in message


def test_another_embodiment_is_refused_with_both_sides_named(room, capsys):
    message = refused(capsys, "eval", room / "run", "embodiment=ur5e_2f85", "episodes=1", f"out={room / 'nothing'}")
    assert "'panda'" in message
    assert "'ur5e_2f85'" in message
    assert not (room / "nothing").exists()
    message = refused(capsys, "collect", "embodiment=ur5e_2f85", "episodes=3", f"out={room / 'pick.zarr'}")
    assert "'panda'" in message
    with EpisodeStore.open(room / "pick.zarr") as store:
        assert store.num_episodes == 2


def test_nan_in_an_action_is_refused_at_commit_and_names_the_channel(room, tmp_path):
    shutil.copytree(room / "pick.zarr", tmp_path / "copy.zarr")
    card = load_embodiment("panda")
    with EpisodeStore.open(tmp_path / "copy.zarr", mode="a") as store:
        from robopolicy.data.episode import Episode

        stop = int(store.episode_ends[0])
        streams = {name: np.array(store.read(name, 0, stop)) for name in store.streams}
        streams["action"][5, card.action.index("ee_position.y")] = np.nan
        with pytest.raises(NonFiniteError, match=r"ee_position\.y"):
            store.append(Episode(streams, language="", success=True, metadata={}))
        assert store.num_episodes == 2


def test_truncated_checkpoint_names_the_file(room, tmp_path, capsys):
    shutil.copytree(room / "run", tmp_path / "run")
    weights = next((tmp_path / "run").glob("checkpoints/*/step_*/ema.safetensors"))
    os.truncate(weights, weights.stat().st_size // 2)
    assert "ema.safetensors" in refused(capsys, "eval", tmp_path / "run", "episodes=1", f"out={tmp_path / 'out'}")
    assert "ema.safetensors" in refused(capsys, "train", "--resume", tmp_path / "run")


def test_missing_statistics_are_refused_with_the_mend(room, tmp_path, capsys):
    shutil.copytree(room / "pick.zarr", tmp_path / "pick.zarr")
    path = tmp_path / "pick.zarr" / "zarr.json"
    document = json.loads(path.read_text())

    def drop(node: object) -> bool:
        if not isinstance(node, dict):
            return False
        if isinstance(node.get("statistics"), dict):
            return bool(node["statistics"].pop("action", None))
        return sum(drop(value) for value in node.values()) > 0

    assert drop(document)
    path.write_text(json.dumps(document))
    message = refused(capsys, "train", *SMALL, f"data={tmp_path / 'pick.zarr'}", f"out={tmp_path / 'run'}")
    assert "statistics" in message
    assert "mend" in message


@pytest.mark.parametrize("verb", ["collect", "train", "eval"])
def test_full_disk_is_told_and_what_was_there_stays(room, tmp_path, verb):
    words = {
        "collect": ["collect", "episodes=3", f"out={tmp_path / 'pick.zarr'}"],
        "train": ["train", *SMALL, f"data={room / 'pick.zarr'}", f"out={tmp_path / 'run'}"],
        "eval": ["eval", "policy=null", "task=pick_place", "embodiment=panda", "episodes=1", f"out={tmp_path / 'out'}"],
    }[verb]
    shutil.copytree(room / "pick.zarr", tmp_path / "pick.zarr")
    # No file may grow beyond a few bytes: the kernel refuses the write as it does on a full disk.
    code = (
        "import resource, sys; from robopolicy.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=250)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "disk" in done.stderr or "space" in done.stderr or "File too large" in done.stderr
    with EpisodeStore.open(tmp_path / "pick.zarr") as store:
        assert store.num_episodes == 2
    assert not list(Path(tmp_path).rglob("manifest.json"))


POLICY = "recipe.stages.policy.parameters"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([f"{POLICY}.prediction_horizon=15"], ("divisible by 2", "mend")),
        ([f"{POLICY}.sampler.kind=ddmi"], ("unknown sampler", "did you mean")),
        ([f"{POLICY}.sampler.kind=euler"], ("cannot sample", "epsilon", "ddim")),
        ([f"{POLICY}.schedule.prediction=epsilom"], ("epsilon",)),
        ([f"{POLICY}.cameras=[front]"], ("front", "mend")),
    ],
)
def test_a_policy_that_cannot_be_is_refused_before_training(room, tmp_path, capsys, words, parts):
    message = refused(capsys, "train", *SMALL, *words, f"data={room / 'pick.zarr'}", f"out={tmp_path / 'run'}")
    for part in parts:
        assert part in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_images_of_the_wrong_size_are_refused(tmp_path, capsys):
    """A crop larger than the pictures before training; pictures of another size when acting."""
    collect("pick_place", "panda", 2, tmp_path / "pick.zarr", cameras=("front",))
    vision = f"{POLICY}.vision={{backbone: CompactConv, keypoints: 4, feature_dim: 4, crop: %d}}"
    words = (*SMALL, f"data={tmp_path / 'pick.zarr'}", f"{POLICY}.environment_state=false", f"{POLICY}.cameras=[front]")
    message = refused(capsys, "train", *words, vision % 500, f"out={tmp_path / 'bad'}")
    assert "crop" in message
    assert "500" in message
    assert main(["train", *words, vision % 80, f"out={tmp_path / 'run'}"]) == 0  # the control
    policy = load_policy(tmp_path / "run", device="cpu")
    shape = (policy.spec.observation_horizon, 96, 96, 3)
    observation = Observation(
        state=np.zeros((shape[0], len(policy.spec.embodiment.state)), np.float32),
        time_ns=np.arange(shape[0], dtype=np.int64) * 50_000_000,
        embodiment=policy.spec.embodiment.hash,
        image={"front": np.zeros(shape, np.uint8)},
    )
    assert np.isfinite(policy.act(observation, rng=0).values).all()
    for image in (np.zeros((shape[0], 48, 48, 3), np.uint8), np.zeros(shape, np.float32)):
        with pytest.raises(ShapeError, match=r"image of camera 'front'.*uint8"):
            policy.act(dataclasses.replace(observation, image={"front": image}), rng=0)
    with pytest.raises(ShapeError, match="reads camera 'front'"):
        policy.act(dataclasses.replace(observation, image={"wrist": observation.image["front"]}), rng=0)
