"""Consistency policy: jumps, what is handed over, what is trained and what is kept; and that it distils at all."""

import copy

import numpy as np
import pytest
import torch
from test_policies_diffusion import batch_for

from robopolicy import checkpoint
from robopolicy.diffusion.jumps import Jumps, move
from robopolicy.diffusion.process import Flow, FlowConfig, Karras, KarrasConfig, VariancePreserving
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.policies import build_policy

E = 3
UNET = {"network": "unet", "unet": {"down": [16, 32], "step_dim": 16}}
DIT = {"network": "dit", "dit": {"width": 16, "layers": 1, "heads": 2}}
GPT = {"network": "gpt", "gpt": {"width": 16, "layers": 1, "heads": 2, "attention_dropout": 0.0}}
KARRAS = {"sigma_min": 0.02, "sigma_max": 80.0, "density": "lognormal"}
PROCESSES = {
    "karras": lambda: Karras(KarrasConfig(sigma_min=0.02, sigma_max=80.0)),
    "flow": lambda: Flow(FlowConfig()),
    "diffusion": lambda: VariancePreserving(NoiseSchedule(prediction="v")),
}
TEACHERS = {
    "karras": ("beso", {"goal_dropout": 0.0, "karras": KARRAS}, {"karras": KARRAS}),
    "flow": ("flow", {}, {}),
    "diffusion": ("diffusion", {"schedule": {"prediction": "v"}}, {"schedule": {"prediction": "v"}}),
}


@pytest.fixture
def build(panda, normalizer):
    def made(name, parameters):
        torch.manual_seed(0)
        return build_policy(name, parameters, embodiment=panda, normalizer=normalizer, environment_state=E).eval()

    return made


@pytest.fixture
def pair(build, tmp_path):
    """Teacher, its checkpoint, and a student that has not taken it over yet."""

    def made(kind="karras", network=UNET, **changes):
        name, theirs, own = TEACHERS[kind]
        teacher = build(name, {**network, **theirs})
        with torch.no_grad():
            for parameter in teacher.network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        path = tmp_path / f"step_{len(list(tmp_path.iterdir())):08d}"
        tensors = {"ema": teacher.state_dict()}
        checkpoint.save(path, tensors=tensors, documents={"policy": teacher.description()}, header={})
        student = build("consistency", {**network, **own, "teacher": kind, "bins": 12, **changes})
        return teacher, checkpoint.load(path), student

    return made


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", PROCESSES)
def test_jumps_with_the_true_noise_stay_on_the_path(kind):
    process = Jumps(PROCESSES[kind](), 10, "karras" if kind == "karras" else "auto")
    x0, noise = torch.rand(11, 4, 2, generator=rng()) * 2 - 1, torch.randn(11, 4, 2, generator=rng(1))
    alpha, sigma = (level[:, None, None] for level in process.levels(torch.arange(11)))
    path = alpha * x0[:1] + sigma * noise[:1]
    for start in range(10):
        for stop in range(start, 11):
            here = (alpha[start], sigma[start], alpha[stop], sigma[stop])
            torch.testing.assert_close(move(path[start], x0[0], *here), path[stop], rtol=1e-4, atol=1e-4)
            assert start != stop or torch.equal(move(path[start], noise[0], *here), path[stop])
    assert torch.equal(path[10], x0[0])
    assert torch.equal(move(x0[0], noise[0], alpha[10], sigma[10], alpha[10], sigma[10]), x0[0])


@pytest.mark.parametrize("kind", PROCESSES)
def test_heun_follows_a_gaussian_better_than_a_step_of_first_order(kind):
    """Data N(0, s^2) have paths in closed form: x_t = x_T sqrt((alpha^2 s^2 + sigma^2) / ...)."""
    deviation = 0.6
    process = Jumps(PROCESSES[kind](), 40, "karras" if kind == "karras" else "auto")

    def clean(x, entry):
        alpha, sigma = (level[:, None, None] for level in process.levels(entry))
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x

    start = torch.arange(4, 39)
    alpha, sigma = process.levels(torch.arange(41))
    spread = (alpha**2 * deviation**2 + sigma**2).sqrt()
    x = spread[start][:, None, None]
    wanted = spread[start + 1]
    levels = [level[entry][:, None, None] for entry in (start, start + 1) for level in (alpha, sigma)]
    second = (process.heun(clean, x, start)[:, 0, 0] - wanted).abs()
    first = (move(x, clean(x, start), *levels)[:, 0, 0] - wanted).abs()
    assert (second < 0.5 * first).all()


def test_grid_of_three_steps_is_the_published_one():
    process = Jumps(PROCESSES["karras"](), 80, "karras")
    assert process.grid(3).time == (0.0, 27.0, 54.0)
    assert process.grid(1).sigma == (80.0, 0.0)
    told = process.network_time(torch.tensor([0.0, 27.0]))
    assert told[:, 1].tolist() == [100.0, 100.0]
    with pytest.raises(ConfigError, match=r"1\.\.80"):
        process.grid(81)


@pytest.mark.parametrize(
    ("kind", "network"), [("karras", UNET), ("flow", UNET), ("diffusion", UNET), ("karras", DIT), ("karras", GPT)]
)
def test_taken_over_it_says_what_the_teacher_says(pair, observation, kind, network):
    teacher, stored, student = pair(kind, network)
    student.take_over(stored)
    features = teacher._condition([observation])
    x = torch.randn(1, 16, 10, generator=rng())
    process, entry = student.process, torch.tensor([5])
    time = torch.tensor(process.bins.time[5]).reshape(1)
    with torch.no_grad():
        wanted = teacher.network(x, teacher.process.network_time(time), features)
        for stop in (5, 8, 12):
            told = process.told(entry, torch.tensor([stop]))
            torch.testing.assert_close(student.network(x, told, features), wanted)
            torch.testing.assert_close(student.target(x, told, features), wanted)
    torch.testing.assert_close(teacher._condition([observation]).steps, student._condition([observation]).steps)


@pytest.mark.parametrize("network", [UNET, DIT, GPT])
def test_only_the_network_is_trained_and_the_average_follows(pair, network):
    _, stored, student = pair("karras", network, observation_mlp=0, target_decay=0.75)
    student.take_over(stored)
    kept = {name: p.clone() for name, p in student.named_parameters()}
    student.train()
    student.loss(batch_for(student), rng=rng()).total.backward()
    assert all((p.grad is not None) == name.startswith("network.") for name, p in student.named_parameters())
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1.0)
    student.after_step()
    for name, parameter in student.named_parameters():
        moved = {"network": 1.0, "target": 0.25}.get(name.split(".")[0], 0.0)
        torch.testing.assert_close(parameter, kept[name] + moved)


def test_the_teacher_is_in_no_checkpoint_and_needed_for_training_alone(pair, observation):
    _, stored, student = pair()
    with pytest.raises(ConfigError, match="initialize_from"):
        student.loss(batch_for(student), rng=rng())
    before = set(student.state_dict())
    student.take_over(stored)
    assert set(student.state_dict()) == before
    assert {name.split(".")[0] for name in before} == {"network", "target"}  # the encoder of states has no weights
    student.act(observation, rng=0)
    student.loss(batch_for(student), rng=rng())


def test_loss_of_a_perfect_pair_is_nothing_and_of_a_wrong_one_is_not(pair):
    """All chunks alike: a network that answers them everywhere has no loss, on either count."""
    _, stored, student = pair("flow")
    student.take_over(stored)
    batch = batch_for(student)
    batch.action[:] = batch.action[:1]
    wanted = student.action_form.encode(batch.action, batch.state)

    class Knowing(torch.nn.Module):
        per_step_time = False

        def __init__(self, off):
            super().__init__()
            self.off = off

        def forward(self, x, told, features):
            time = told[:, 0] if told.ndim == 2 else told  # 100 t
            sigma = (1 - time / 100)[:, None, None]
            return (wanted[:1] + self.off - x) / sigma.clamp(min=1e-3)

    student.network, student.target, student._teacher = Knowing(0.0), Knowing(0.0), [Knowing(0.0)]
    losses = student.loss(batch, rng=rng())
    assert losses.parts["trajectory"] < 1e-5
    assert losses.parts["denoising"] < 1e-5
    student.network = Knowing(0.3)
    losses = student.loss(batch, rng=rng())
    assert losses.parts["trajectory"] > 0.01
    assert losses.parts["denoising"] > 0.01


def test_three_steps_draw_noise_and_one_does_not(pair, observation):
    _, stored, student = pair()
    student.take_over(stored)

    def draws(kind, steps):
        student.change({"sampler": {"kind": kind, "steps": steps}})
        generator = np.random.default_rng(0)
        student.act(observation, rng=generator)
        state = generator.bit_generator.state
        used, fresh = 0, np.random.default_rng(0)
        while fresh.bit_generator.state != state:
            fresh.standard_normal((1, 16, 10), dtype=np.float32)
            used += 1
        return used

    assert draws("multistep_consistency", 1) == 1
    assert draws("multistep_consistency", 3) == 3
    assert draws("ddim", 3) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": "flow"}, "prediction"),
        ({"karras": {"sigma_max": 10.0}}, "sigma_max"),
        ({"prediction_horizon": 12}, "prediction_horizon"),
        ({"unet": {"down": [16, 64], "step_dim": 16}}, "another shape"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(pair, changes, told):
    _, stored, student = pair("karras", UNET, **changes)
    with pytest.raises(CheckpointError, match=told):
        student.take_over(stored)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"bins": 1}, "bins"),
        ({"target_decay": 1.0}, "target_decay"),
        ({"teacher": "diffusion", "schedule": {"prediction": "epsilon"}}, "schedule.prediction=v"),
        ({"teacher": "gan"}, "karras"),
        ({"sampler": {"kind": "heun"}}, "multistep_consistency"),
        ({"sampler": {"steps": 81}}, "1..80"),
        ({"denoising_weight": -1.0}, "denoising_weight"),
    ],
)
def test_refusals_name_what_is_allowed(build, parameters, told):
    with pytest.raises(ConfigError, match=told):
        build("consistency", {**UNET, **parameters})


def test_three_steps_a_checkpoint_and_three_more_are_six(point_store, tmp_path):
    """Through the trainer: stage by stage, with the teacher of the first stage and the average of the second."""
    from robopolicy.training.run import resume, train

    stage = {
        "policy": "flow",
        "steps": 2,
        "batch_size": 4,
        "checkpoint_every": 3,
        "parameters": {**UNET, "environment_state": False},
        "optimizer": {"lr": 1e-2, "warmup_steps": 0},
        "validation": {"every": 3, "fraction": 0.2, "batches": 1},
    }
    second = copy.deepcopy(stage)
    second |= {"policy": "consistency", "steps": 6, "initialize_from": "teacher"}
    second["parameters"] |= {"teacher": "flow", "bins": 8, "target_decay": 0.5}
    recipe = {"device": "cpu", "threads": 1, "stages": {"teacher": stage, "student": second}}
    train(recipe, point_store, tmp_path / "whole", progress=False)
    train(recipe, point_store, tmp_path / "cut", progress=False)
    last = tmp_path / "cut/checkpoints/1_student/step_00000006"
    assert checkpoint.latest(tmp_path / "cut") == last
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    resume(tmp_path / "cut", progress=False)
    whole, cut = (checkpoint.load(checkpoint.latest(tmp_path / name)) for name in ("whole", "cut"))
    for kind in ("weights", "ema", "optimizer"):
        one, other = whole.tensors(kind), cut.tensors(kind)
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
    weights = whole.tensors("weights")
    name = "network.head.3.bias"
    assert not torch.equal(weights[name], weights[name.replace("network", "target")])


@pytest.fixture
def point_store(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims" / "policies"))
    try:
        import point_world
    finally:
        sys.path.pop(0)
    path = tmp_path / "points.zarr"
    point_world.make_store(path, 8, 0).close()
    return path
