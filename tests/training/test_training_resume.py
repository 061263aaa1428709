"""Ten steps equal five, a checkpoint, a fresh trainer and five more, bit for bit."""

import json
import shutil

import pytest
import torch
import yaml
from training_toy import write_store

from robopolicy import checkpoint
from robopolicy.errors import CheckpointError, ConfigError, DataError, NonFiniteError, StorageError
from robopolicy.policies import load_policy
from robopolicy.training.run import resume, train
from robopolicy.training.trainer import Trainer

CLOCKS = ("samples_per_s",)


def trained(store, out, recipe, **kw):
    return train(recipe, store, out, progress=False, **kw)


def content(run):
    stored = checkpoint.load(checkpoint.latest(run))
    tensors = {f"{f}:{k}": v for f in ("weights", "ema", "optimizer") for k, v in stored.tensors(f).items()}
    return stored, tensors


def assert_same(one, two):
    (a, tensors_a), (b, tensors_b) = content(one), content(two)
    assert tensors_a.keys() == tensors_b.keys()
    assert {k for k in tensors_a if k.startswith("optimizer")}
    different = [k for k in tensors_a if not torch.equal(tensors_a[k], tensors_b[k])]
    assert not different, different
    state_a, state_b = (
        {k: v for k, v in s.document("trainer").items() if k not in ("seconds", "last", "rng")} for s in (a, b)
    )
    assert state_a == state_b
    assert state_a["ema"]["optimization_step"] == state_a["step"] == 10


def cut_back(run, step):
    """As if the process had died: only the checkpoints up to ``step`` are there."""
    for path in (run / "checkpoints").glob("*/step_*"):
        if int(path.name.split("_")[1]) > step:
            shutil.rmtree(path)
    (run / "train.json").unlink(missing_ok=True)
    return run


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3}, {"mixed_precision": "bf16"}, {"workers": 2}])
def test_ten_steps_equal_five_and_five(reach, recipe, tmp_path, changes):
    made = recipe(**changes)
    trained(reach, tmp_path / "ten", made)
    shutil.copytree(tmp_path / "ten", tmp_path / "five")
    cut_back(tmp_path / "five", 5)
    assert checkpoint.load(checkpoint.latest(tmp_path / "five")).document("trainer")["step"] == 5
    resume(tmp_path / "five", progress=False)
    assert_same(tmp_path / "ten", tmp_path / "five")
    lines = [json.loads(line) for line in (tmp_path / "five" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))  # the lines after the checkpoint were written once


def test_the_comparison_can_fail(reach, recipe, tmp_path):
    """The control: another seed, and a resume without the moving average's counter, are seen."""
    trained(reach, tmp_path / "a", recipe())
    trained(reach, tmp_path / "b", recipe(seed=4))
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    cut_back(tmp_path / "c", 5)
    restore = Trainer.restore

    def forgetful(self, stored):
        restore(self, stored)
        self.ema.model.optimization_step = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "restore", forgetful)
        resume(tmp_path / "c", progress=False)
    with pytest.raises(AssertionError, match="ema"):
        assert_same(tmp_path / "a", tmp_path / "c")


def test_accumulation_is_the_same_batch(reach, recipe, tmp_path):
    """Loss of the first step: noise differs per micro-batch, the samples and the mean do not."""
    orders = []
    original = Trainer.batches

    def spy(self):
        for batch in original(self):
            orders.append(batch.action)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "batches", spy)
        for accumulate in (1, 3):
            trained(reach, tmp_path / str(accumulate), recipe(accumulate=accumulate, steps=1))
    assert torch.equal(orders[0], torch.cat(orders[1:4]))


def test_run_directory(reach, recipe, tmp_path):
    calls = []

    def rollout(policy, step):
        calls.append((step, policy.training))
        return {"success_rate": 0.25}

    made = recipe(validation={"rollout_every": 5})
    summary = trained(reach, tmp_path / "run", made, rollout=rollout)
    run = tmp_path / "run"
    assert calls == [(5, False), (10, False)]
    assert summary == json.loads((run / "train.json").read_text())
    assert summary["stages"]["policy"]["steps"] == 10
    assert summary["stages"]["policy"]["success_rate"] == 0.25
    assert summary["data"]["episodes"] == 6
    assert summary["cpu_s"] > 0
    text = (run / "config.yaml").read_text()
    assert text.startswith("# robopolicy train --resume")
    assert yaml.safe_load(text)["recipe"]["stages"]["policy"]["steps"] == 10
    assert list((run / "tensorboard").iterdir())
    assert checkpoint.best(run) is not None
    assert not [p for p in run.rglob("*") if p.suffix in (".pt", ".pkl", ".pth", ".bin")]


def test_load_policy_from_the_checkpoint_alone(reach, recipe, tmp_path):
    trained(reach, tmp_path / "run", recipe())
    alone = tmp_path / "elsewhere"
    shutil.copytree(checkpoint.latest(tmp_path / "run"), alone / "step_00000010")
    policy = load_policy(alone / "step_00000010", device="cpu")
    ema, raw = policy.state_dict(), load_policy(tmp_path / "run", device="cpu", weights="raw").state_dict()
    stored = checkpoint.load(alone / "step_00000010")
    assert all(torch.equal(v, stored.tensors("ema")[k]) for k, v in ema.items())
    assert all(torch.equal(v, stored.tensors("weights")[k]) for k, v in raw.items())
    assert any(not torch.equal(raw[k], ema[k]) for k in raw)
    assert not policy.training
    load_policy(tmp_path / "run", device="cpu", which="best")
    with pytest.raises(ConfigError, match="weights"):
        load_policy(tmp_path / "run", weights="latest")
    with pytest.raises(CheckpointError, match="no such run"):
        load_policy(tmp_path / "nothing")


def rewrite(path, **changes):
    """Save the checkpoint again with honest hashes but another content."""
    stored = checkpoint.load(path)
    documents = {**stored.documents, **changes.get("documents", {})}
    names = ("weights", "ema", "optimizer")
    tensors = {n: changes.get("tensors", lambda n, t: t)(n, stored.tensors(n)) for n in names}
    checkpoint.save(path, tensors=tensors, documents=documents)


def test_weights_that_do_not_fit_are_refused(reach, recipe, tmp_path):
    trained(reach, tmp_path / "run", recipe())
    path = checkpoint.latest(tmp_path / "run")
    good = checkpoint.load(path)
    first = sorted(good.tensors("ema"))[0]
    for change, words in (
        (lambda n, t: {k: v for k, v in t.items() if k != first}, f"missing \\['{first}'"),
        (lambda n, t: {**t, "stray": torch.zeros(1)}, "unexpected \\['stray'"),
        (lambda n, t: {**t, first: torch.zeros(3, 3)}, "another shape"),
    ):
        shutil.copytree(path, tmp_path / "bad" / path.name)
        rewrite(tmp_path / "bad" / path.name, tensors=change)
        with pytest.raises(CheckpointError, match=words):
            load_policy(tmp_path / "bad" / path.name)
        shutil.rmtree(tmp_path / "bad")
    normalizer = json.loads(json.dumps(good.document("normalizer")))
    normalizer["action"]["scale"].pop()
    normalizer["action"]["offset"].pop()
    rewrite(path, documents={"normalizer": normalizer})
    with pytest.raises(DataError, match="wrong width"):
        load_policy(path)


def test_resume_refuses_other_data_and_other_runs(reach, recipe, tmp_path):
    trained(reach, tmp_path / "run", recipe())
    with pytest.raises(ConfigError, match="already holds a run"):
        trained(reach, tmp_path / "run", recipe())
    with pytest.raises(CheckpointError, match="no run to resume"):
        resume(tmp_path)
    other = write_store(tmp_path / "other.zarr", episodes=3)
    with pytest.raises(DataError, match="not the one"):
        resume(tmp_path / "run", data=other)
    moved = shutil.copytree(reach, tmp_path / "moved.zarr")
    cut_back(tmp_path / "run", 5)
    assert resume(tmp_path / "run", data=moved, progress=False)["steps"] == 10


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(reach, recipe, tmp_path):
    original = Trainer._step

    def poison(self, batches):
        if self.step == 7:
            with torch.no_grad():
                next(iter(self.policy.parameters())).fill_(float("nan"))
        return original(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", poison)
        with pytest.raises(NonFiniteError, match="step 7"):
            trained(reach, tmp_path / "run", recipe())
    stored = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    assert stored.document("trainer")["step"] == 5
    assert all(v.isfinite().all() for v in stored.tensors("weights").values())


def test_full_disk_while_training(reach, recipe, tmp_path):
    import errno

    original, saves = checkpoint._write, []

    def full(file, contents):
        if file.name == "ema.safetensors":
            saves.append(file)
            if len(saves) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(file, contents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(StorageError, match="disk is full"):
            trained(reach, tmp_path / "run", recipe(checkpoint_every=3, validation={"every": 0}))
    assert checkpoint.load(checkpoint.latest(tmp_path / "run")).document("trainer")["step"] == 6
    assert resume(tmp_path / "run", progress=False)["steps"] == 10


def test_two_stages_and_resume_into_the_second(reach, recipe, tmp_path):
    made = recipe(steps=4, checkpoint_every=2)
    made["stages"]["tune"] = {**made["stages"]["policy"], "initialize_from": "policy"}
    summary = trained(reach, tmp_path / "run", made)
    assert list(summary["stages"]) == ["policy", "tune"]
    stored = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    assert stored.document("trainer")["stage"] == "tune"
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "1_tune" / "step_00000004")
    resume(tmp_path / "again", progress=False)
    (_, a), (_, b) = content(tmp_path / "run"), content(tmp_path / "again")
    assert all(torch.equal(a[k], b[k]) for k in a)
    made["stages"]["tune"]["initialize_from"] = "nothing"
    with pytest.raises(ConfigError, match="no earlier stage"):
        trained(reach, tmp_path / "bad", made)


def test_recipe_errors_come_together(reach, tmp_path, recipe):
    made = recipe(stepz=3, batch_size=0)
    with pytest.raises(ConfigError) as caught:
        trained(reach, tmp_path / "bad", made)
    assert len(caught.value.problems) == 2
    assert "did you mean 'steps'" in str(caught.value)
    with pytest.raises(ConfigError, match="divisible"):
        trained(reach, tmp_path / "bad", recipe(accumulate=5))
    made = recipe(policy="null")
    made["stages"]["policy"]["parameters"] = {}
    with pytest.raises(ConfigError, match="cannot be trained"):
        trained(reach, tmp_path / "bad", made)
    with pytest.raises(DataError, match="cameras"):
        trained(reach, tmp_path / "bad", recipe(parameters={"cameras": ["front"]}))
    assert not (tmp_path / "bad" / "checkpoints").exists()
