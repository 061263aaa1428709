"""Export: the graph answers what the policy answers; what cannot be exported says so."""

import json

import numpy as np
import pytest
import torch

from robopolicy.control.between import Prefix
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CheckpointError, ConfigError, EmbodimentMismatchError, ShapeError
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy
from robopolicy.types import Observation

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SMALL = {"unet": {"down": [8, 16], "step_dim": 8}, "sampler": {"steps": 2}}
E = 3


def make(family, **parameters):
    card = load_embodiment("panda")
    box = {name: {"min": c.lower, "max": c.upper} for name, c in (("state", card.state), ("action", card.action))}
    box["environment_state"] = {"min": np.full(E, -1.0), "max": np.full(E, 1.0)}
    torch.manual_seed(0)
    return build_policy(
        family,
        {**SMALL, **parameters},
        embodiment=card,
        normalizer=Normalizer.from_statistics(box, card),
        environment_state=E,
    ).eval()


def seen(card, share=0.4):
    rng = np.random.default_rng(0)
    state = card.state.lower * share + card.state.upper * (1 - share)
    return Observation(
        state=np.stack([state, state]).astype(np.float32),
        time_ns=np.array([1_000_000_000, 1_050_000_000]),
        embodiment=card.hash,
        environment_state=np.full((2, E), 0.3, np.float32),
        image={c.name: rng.integers(0, 255, (2, c.height, c.width, 3), dtype=np.uint8) for c in card.cameras},
    )


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("diffusion", {}),
        ("diffusion", {"schedule": {"prediction": "x0"}}),
        ("diffusion", {"environment_state": False, "cameras": ["front"]}),
        ("flow", {"sampler": {"kind": "euler", "steps": 2}}),
        ("flow", {"environment_state": False, "cameras": ["front"], "sampler": {"kind": "euler", "steps": 2}}),
    ],
)
def test_graph_answers_what_the_policy_answers(family, parameters, tmp_path):
    from robopolicy.export import export_policy, load_exported

    policy = make(family, **parameters)
    folder = export_policy(policy, tmp_path / "policy.onnx")
    assert folder == tmp_path / "policy"
    loaded = load_exported(folder, providers=["CPUExecutionProvider"])
    assert loaded.spec == policy.spec
    card = policy.spec.embodiment
    for rng in (0, 1):
        want, got = policy.act(seen(card), rng=rng), loaded.act(seen(card), rng=rng)
        span = card.action.upper - card.action.lower
        # answering epsilon at the first time divides the network's rounding by alpha, which is hardly above 0 there
        least = policy.grid.alpha[0] if policy.process.prediction == "epsilon" else 1.0
        assert np.abs((want.values - got.values) / span).max() < max(1e-4, 2e-6 / least)
        assert (got.t0_ns, got.horizon, got.dt_s) == (want.t0_ns, want.horizon, want.dt_s)
        ahead = Prefix(
            want.values[:9] + 0.01 * span,
            got.t0_ns,
            got.dt_s,
            card.hash,
            horizon=3,
            strongest=20.0,
            jacobian="identity",
        )
        held, told = policy.act(seen(card), rng=rng, prefix=ahead), loaded.act(seen(card), rng=rng, prefix=ahead)
        assert np.abs((held.values - told.values) / span).max() < max(1e-4, 2e-6 / least)
        assert np.abs((told.values - got.values) / span).max() > 1e-3  # control: it was followed
    # control: another observation, another noise
    other = loaded.act(seen(card, 0.6), rng=1).values
    assert np.abs(other - got.values).max() > 1e-4
    assert np.abs(loaded.act(seen(card), rng=0).values - got.values).max() > 1e-4


def test_a_graph_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    import robopolicy.export as export

    folder = export.export_policy(make("flow", sampler={"kind": "euler", "steps": 2}), tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert 0 < json.loads((folder / "policy.json").read_text())["largest_difference"] < 1e-4
    monkeypatch.setattr(export, "MOST_DIFFERENCE", 0.0)
    with pytest.raises(ConfigError, match="does not answer what the policy answers"):
        export.export_policy(make("flow", sampler={"kind": "euler", "steps": 1}), tmp_path / "a")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_prefix_that_needs_gradients_is_refused(tmp_path):
    from robopolicy.export import export_policy, load_exported

    loaded = load_exported(export_policy(make("diffusion"), tmp_path / "a"), providers=["CPUExecutionProvider"])
    card = loaded.spec.embodiment
    chunk = loaded.act(seen(card), rng=0)
    ahead = Prefix(chunk.values[:9], chunk.t0_ns, chunk.dt_s, card.hash, horizon=3, strongest=5.0, jacobian="network")
    with pytest.raises(ConfigError, match="no gradients"):
        loaded.act(seen(card), rng=0, prefix=ahead)


def test_altered_and_absent_exports_are_refused(tmp_path):
    from robopolicy.export import export_policy, load_exported
    from robopolicy.exported import DOCUMENT, exported_cameras

    folder = export_policy(make("diffusion"), tmp_path / "a")
    assert exported_cameras(folder, load_embodiment("panda")) == ()
    with pytest.raises(EmbodimentMismatchError):
        exported_cameras(folder, load_embodiment("xarm7"))
    loaded = load_exported(folder)
    with pytest.raises(ShapeError, match="noise"):
        loaded.chunk({"state": np.zeros((1, 2, 10), np.float32), "environment_state": np.zeros((1, 2, E), np.float32)})
    with pytest.raises(ConfigError, match="not available"):
        load_exported(folder, providers=["NoSuchProvider"])
    document = json.loads((folder / DOCUMENT).read_text())
    (folder / DOCUMENT).write_text(json.dumps({**document, "format": 1}))
    with pytest.raises(CheckpointError, match="another format"):
        load_exported(folder)
    with pytest.raises(CheckpointError, match="no exported policy"):
        load_exported(tmp_path)


def test_policies_that_cannot_be_exported_say_why(tmp_path):
    from robopolicy.export import export_policy

    with pytest.raises(ConfigError, match=r"draws noise.*sampler\.kind=ddim"):
        export_policy(make("diffusion", sampler={"kind": "ddpm", "steps": 2}), tmp_path / "b")
    with pytest.raises(ConfigError, match="cannot be exported"):
        export_policy(build_policy("null", embodiment=load_embodiment("panda")), tmp_path / "c")
