"""A loss that is not finite: training stops, the last good checkpoint stays, and the batch is named."""

import json
import math

import numpy as np
import pytest
import torch
from training_toy import write_store

from robopolicy import checkpoint
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset
from robopolicy.errors import NonFiniteError
from robopolicy.training.order import step_indices
from robopolicy.training.run import resume, train
from robopolicy.training.trainer import Trainer


def last_step(run):
    return checkpoint.load(checkpoint.latest(run)).document("trainer")["step"]


def poison(monkeypatch, stream, row, channel, value=float("nan")):
    """As if the file had changed after it was checked: one number of a stream, whoever reads it."""
    column = EpisodeStore.column

    def read(self, name):
        values = np.array(column(self, name))
        if name == stream:
            values[row, channel] = value
        return values

    monkeypatch.setattr(EpisodeStore, "column", read)


def stopped(store, out, recipe, match="not finite|is nan|is inf"):
    with pytest.raises(NonFiniteError, match=match) as caught:
        train(recipe, store, out, progress=False)
    report = json.loads((out / "not_finite.json").read_text())
    return str(caught.value), report


@pytest.mark.parametrize("stream", ["state", "action", "environment_state"])
def test_poisoned_data_are_named(reach, recipe, tmp_path, monkeypatch, stream):
    poison(monkeypatch, stream, 47, 1)  # episode 2, step 7
    made = recipe(accumulate=3, checkpoint_every=1, validation={"fraction": 0, "every": 0})
    message, report = stopped(reach, tmp_path / "run", made)
    assert f"the data are not: {stream} channels" in message
    assert "ee_position.y" in message or stream == "environment_state"
    assert "micro-batch" in message
    assert "robopolicy data validate" in message
    assert "episode 2, step" in message
    assert report["weights"] == []
    assert list(report["data"]) == [stream]
    assert len(report["windows"]) == 4  # of the micro-batch
    assert all(window["place"].startswith("episode ") for window in report["windows"])
    assert any(window["loss"] == "nan" and window["place"].startswith("episode 2, ") for window in report["windows"])


def test_the_batch_named_is_the_one_of_that_step(reach, recipe, tmp_path, monkeypatch):
    poison(monkeypatch, "action", 40, 0)  # the first row of episode 2: only windows 40 and 41 hold it
    made = recipe(steps=40, batch_size=4, checkpoint_every=1, validation={"fraction": 0, "every": 0})
    order = step_indices(6 * 20, made["seed"], 0, 40, 4)
    first = next(step for step, batch in enumerate(order) if {40, 41} & set(batch.tolist()))
    assert first > 0
    message, report = stopped(reach, tmp_path / "run", made, match=f"at step {first} ")
    assert [window["index"] for window in report["windows"]] == order[first].tolist()
    assert f"action channels ee_position.x in window {({40, 41} & set(order[first].tolist())).pop()}" in message
    assert last_step(tmp_path / "run") == first  # from right before the step


def test_clean_data_train_through(reach, recipe, tmp_path):
    """The control: the same recipe on the same store, nothing poisoned."""
    train(recipe(accumulate=3, validation={"fraction": 0, "every": 0}), reach, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "not_finite.json").exists()


def test_a_huge_learning_rate_is_not_blamed_on_the_data(reach, recipe, tmp_path):
    made = recipe(steps=30, checkpoint_every=1, optimizer={"lr": 1e30, "warmup_steps": 0}, validation={"every": 0})
    message, report = stopped(reach, tmp_path / "run", made)
    assert "the data are not" not in message
    assert "optimizer.lr" in message
    assert report["data"] == {}
    stored = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    assert all(v.isfinite().all() for v in stored.tensors("weights").values())
    assert str(stored.path) in message


@pytest.mark.parametrize("at_once", [True, False])
def test_weights_that_are_not_finite_are_named(reach, recipe, tmp_path, monkeypatch, at_once):
    """Looked at before every update, or, as on a GPU, when something is logged or written."""
    original, made_by = Trainer._step, Trainer.__init__

    def make(self, *args, **kwargs):
        made_by(self, *args, **kwargs)
        self.check_at_once = at_once

    def break_weights(self, batches):
        if self.step == 7:
            with torch.no_grad():
                next(iter(self.policy.parameters())).fill_(float("nan"))
        return original(self, batches)

    monkeypatch.setattr(Trainer, "__init__", make)
    monkeypatch.setattr(Trainer, "_step", break_weights)
    message, report = stopped(reach, tmp_path / "run", recipe(), match="at step 7")
    assert "the data of the batch are finite, the weights are not" in message
    assert report["weights"]
    assert last_step(tmp_path / "run") == 5
    monkeypatch.undo()
    assert resume(tmp_path / "run", progress=False)["steps"] == 10


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_is_refused_before_the_update(reach, recipe, tmp_path, monkeypatch, clip_norm):
    original = Trainer.batches

    def hook(self):
        list(self.policy.parameters())[3].register_hook(lambda g: g * math.inf if self.step == 6 else g)
        yield from original(self)

    monkeypatch.setattr(Trainer, "batches", hook)
    made = recipe(checkpoint_every=1, optimizer={"clip_norm": clip_norm})
    message, report = stopped(reach, tmp_path / "run", made, match="norm of the gradient .* at step 6")
    assert "data and weights are finite" in message
    assert "worst samples: window" in message
    assert all(isinstance(window["loss"], float) for window in report["windows"])
    assert last_step(tmp_path / "run") == 6


def test_validation_that_is_not_finite_is_told_apart(tmp_path, recipe, monkeypatch):
    """Only held-out windows are poisoned: training itself goes well."""
    store = write_store(tmp_path / "reach.zarr")
    original = WindowDataset.gather_low

    def spoil(self, indices, out):
        original(self, indices, out)
        if len(self.episodes) == 1:  # the one that is held out
            out["state"][:] = np.nan

    monkeypatch.setattr(WindowDataset, "gather_low", spoil)
    message, report = stopped(store, tmp_path / "run", recipe(), match="the validation loss")
    assert "the data are not: state" in message
    assert "held-out batch 0" in message
    assert report["weights"] == []


def test_validation_changes_nothing_of_what_is_learned(reach, recipe, tmp_path):
    """Weights, moving average and its counter are those of a run that never validates; another decay is seen."""
    held = {"fraction": 0.2}
    made = {
        "often": recipe(validation={**held, "every": 1}),
        "never": recipe(validation={**held, "every": 0}),
        "other": recipe(validation={**held, "every": 1}, ema={"max_decay": 0.5}),
    }
    tensors = {}
    for name, changed in made.items():
        train(changed, reach, tmp_path / name, progress=False)
        stored = checkpoint.load(checkpoint.latest(tmp_path / name))
        tensors[name] = {f"{kind}:{k}": v for kind in ("weights", "ema") for k, v in stored.tensors(kind).items()}
        assert stored.document("trainer")["ema"]["optimization_step"] == 10
    assert all(torch.equal(v, tensors["never"][k]) for k, v in tensors["often"].items())
    assert not all(torch.equal(v, tensors["other"][k]) for k, v in tensors["often"].items())


def test_validation_is_of_the_weights_that_are_stored_for_use(reach, recipe, tmp_path):
    """The last validation loss is that of the checkpoint's averaged weights, and not that of the raw ones."""
    summary = train(recipe(), reach, tmp_path / "run", progress=False)
    seen = {}
    validate = Trainer.validate

    def again(self):
        stored = checkpoint.load(checkpoint.latest(tmp_path / "run"))
        for kind in ("ema", "weights"):
            self.policy.load_state_dict(stored.tensors(kind))
            self.ema.model.shadow_params = [p.detach().clone() for p in self.policy.parameters()]
            validate(self)
            seen[kind] = self.last["validation_loss"]
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "validate", again)
        train(recipe(steps=1), reach, tmp_path / "again", progress=False)
    assert seen["ema"] == pytest.approx(summary["stages"]["policy"]["validation_loss"], rel=1e-5)
    assert seen["weights"] != pytest.approx(seen["ema"], rel=1e-3)
