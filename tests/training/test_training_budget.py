"""A budget in minutes becomes a number of steps before training begins, and a resumed run keeps it."""

import dataclasses
import shutil

import pytest
import torch
import yaml
from test_training_resume import assert_same, content, cut_back

from robopolicy.config import build
from robopolicy.errors import ConfigError
from robopolicy.training import budget
from robopolicy.training.budget import Measured, steps_within
from robopolicy.training.recipe import Recipe, Stage
from robopolicy.training.run import resume, train

MEASURED = Measured(step_s=0.1, validation_s=0.5, checkpoint_s=1.0, warm_up_s=2.0, used_s=10.0, measured_steps=50)


def stage(**changes):
    return build(Stage, {"policy": "diffusion", "steps": 10_000, "checkpoint_every": 100, **changes})


def test_what_is_left_of_the_minutes_divides_into_steps():
    # 480 s - 10 measured - 2 warm-up - 1.5 at the end; a step costs 0.1 + 1/100 of a checkpoint + 1/50 of a validation
    assert steps_within(480, MEASURED, stage(validation={"every": 50})) == int(466.5 / (0.1 + 0.01 + 0.01))
    assert steps_within(480, MEASURED, stage(validation={"every": 0})) == int(466.5 / 0.11)
    assert steps_within(480, MEASURED, stage(steps=7)) == 7  # never more than the recipe's
    assert steps_within(5, MEASURED, stage()) == 1  # a budget that measuring has used up still trains
    slower = dataclasses.replace(MEASURED, step_s=0.2)
    assert steps_within(480, slower, stage()) < steps_within(480, MEASURED, stage())


@pytest.mark.parametrize("minutes", [0, -1, "eight"])
def test_minutes_are_checked(reach, recipe, tmp_path, minutes):
    with pytest.raises(ConfigError, match="max_minutes"):
        train(recipe(max_minutes=minutes), reach, tmp_path / "run", progress=False)


def budgeted(reach, recipe, out, monkeypatch, found, **changes):
    """A run whose measurement really took place, but found ``found``: clocks differ from run to run."""
    looked = []

    def measure(make, budget_s):
        looked.append(real(make, budget_s))
        return found

    real = budget.measure_stage
    with monkeypatch.context() as patch:
        patch.setattr(budget, "measure_stage", measure)
        train(recipe(max_minutes=0.1, **changes), reach, out, progress=False)
    return looked


def test_the_steps_found_are_fixed_and_survive_a_cut(reach, recipe, tmp_path, monkeypatch):
    found = Measured(0.5, 0.0, 0.0, 0.0, 1.0, 5)  # (6 s - 1 s) / 0.5 s = 10 steps
    looked = budgeted(reach, recipe, tmp_path / "ten", monkeypatch, found, steps=1000)
    assert looked[0].step_s > 0
    assert looked[0].checkpoint_s > 0
    assert looked[0].validation_s > 0
    assert looked[0].measured_steps >= budget.LEAST_STEPS
    config = yaml.safe_load((tmp_path / "ten" / "config.yaml").read_text())
    assert config["recipe"]["stages"]["policy"]["steps"] == 10
    assert config["budget"]["policy"]["at_most"] == 1000
    assert config["budget"]["policy"]["max_minutes"] == 0.1
    shutil.copytree(tmp_path / "ten", tmp_path / "five")
    cut_back(tmp_path / "five", 5)
    # resuming does not measure: it would find another number, and another learning rate at every step
    monkeypatch.setattr(budget, "measure_stage", None)
    resume(tmp_path / "five", progress=False)
    assert_same(tmp_path / "ten", tmp_path / "five")


def test_measuring_leaves_no_trace_in_the_weights(reach, recipe, tmp_path, monkeypatch):
    """The same bits as a run that was told the steps; the control is another number of steps."""
    train(recipe(), reach, tmp_path / "told", progress=False)
    budgeted(reach, recipe, tmp_path / "found", monkeypatch, Measured(0.5, 0, 0, 0, 1.0, 5), steps=1000)
    (_, told), (_, found) = content(tmp_path / "told"), content(tmp_path / "found")
    assert all(torch.equal(told[name], found[name]) for name in told)
    budgeted(reach, recipe, tmp_path / "other", monkeypatch, Measured(0.55, 0, 0, 0, 1.0, 5), steps=1000)
    _, other = content(tmp_path / "other")
    assert not all(torch.equal(told[name], other[name]) for name in told if name.startswith("weights"))


def test_a_second_stage_is_measured_without_its_start(reach, recipe, tmp_path, monkeypatch):
    made = recipe(steps=4, checkpoint_every=2)
    made["stages"]["tune"] = {**made["stages"]["policy"], "initialize_from": "policy", "max_minutes": 0.001}
    summary = train(made, reach, tmp_path / "run", progress=False)
    assert 1 <= summary["stages"]["tune"]["steps"] <= 4
    assert summary["stages"]["policy"]["steps"] == 4
    assert build(Recipe, yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["recipe"])
