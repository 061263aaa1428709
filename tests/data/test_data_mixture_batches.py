"""Batches of several robots: order, shares, masks, cameras by role, configuration."""

from __future__ import annotations

from pathlib import Path

import mixture_toy
import numpy as np
import pytest
import yaml

from robopolicy.data.loader import Loader
from robopolicy.data.mixture import Mixture
from robopolicy.data.mixture_config import MixtureConfig, is_mixture, read_mixture
from robopolicy.data.mixture_order import BLOCK, mixture_indices, shares
from robopolicy.data.mixture_windows import MixtureDataset
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError, EmbodimentError
from robopolicy.slots import SLOTS

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "mixture").rglob("*.yaml"))


def dataset(folder, *, images=False, cache_bytes=1 << 20, **entries):
    mixture = Mixture.open({"stores": mixture_toy.three(folder, images=images), **entries})
    roles = ("front",) if images else ()
    training, _ = mixture.split(0.0, 0)
    views = mixture.views(2, 8, form="increment", environment_state=True, roles=roles, episodes=training)
    return MixtureDataset(mixture, views, 8, roles, training, cache_bytes=cache_bytes)


def test_shares() -> None:
    np.testing.assert_allclose(shares([100, 300]), [0.25, 0.75])
    np.testing.assert_allclose(shares([100, 10_000], temperature=2.0), [1 / 11, 10 / 11])
    np.testing.assert_allclose(shares([1, 10**6], temperature=1e9), [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(shares([1, 2, 3], [2.0, 1.0, 1.0]), [0.5, 0.25, 0.25])
    with pytest.raises(DataError):
        shares([1, 2], [1.0, 0.0])


def test_order_is_a_function_of_seed_and_step() -> None:
    sizes, p = [50, 700, 3], shares([50, 700, 3], [1.0, 1.0, 1.0])
    whole = mixture_indices(sizes, p, 7, 0, 40, 30)
    for first, count in ((0, 11), (11, 29), (39, 1)):
        assert (mixture_indices(sizes, p, 7, first, count, 30) == whole[first : first + count]).all()
    assert (mixture_indices(sizes, p, 8, 0, 40, 30) != whole).any()
    store = np.searchsorted(np.cumsum(sizes), whole, side="right")
    counts = np.stack([(store == m).sum(1) for m in range(3)])
    assert counts.min() >= 8, "every batch mixes all stores in their shares, 10 of each here"
    assert counts.max() <= 12
    assert counts.sum(1).tolist() == [400, 400, 400]


def test_order_goes_through_every_window_before_it_repeats_one_and_across_blocks() -> None:
    sizes, p = [40, 1000], shares([40, 1000], [1.0, 3.0])
    first = BLOCK // 100 - 5
    whole = mixture_indices(sizes, p, 1, 0, first + 10, 100)
    assert (mixture_indices(sizes, p, 1, first, 10, 100) == whole[first:]).all()
    flat = whole.ravel()
    large = flat[flat >= 40]
    for epoch in range(4):
        assert len(np.unique(large[epoch * 1000 : (epoch + 1) * 1000])) == 1000
    share = (flat < 40).mean()
    assert abs(share - 0.25) < 1e-3


def test_a_batch_mixes_robots_and_says_what_each_has(tmp_path) -> None:
    data = dataset(tmp_path)
    order = mixture_indices(data.sizes, data.mixture.shares(data.sizes), 0, 0, 1, 24)[0]
    part = data.gather(order)
    assert sorted(set(part["embodiment_index"].tolist())) == [0, 1, 2]
    for index, view in enumerate(data.views):
        rows = np.flatnonzero(part["embodiment_index"] == index)
        assert (part["state_mask"][rows] == view.state_mask).all()
        assert (part["state"][rows][..., ~view.state_mask] == 0).all()
        assert (part["action"][rows][..., ~view.action_mask] == 0).all()
        assert not part["action_mask"][rows][..., ~view.action_mask].any()
        assert part["action_mask"][rows][:, 1][..., view.action_mask].all(), "the newest row is never padding"
    bimanual = part["embodiment_index"] == 2
    assert (part["environment_state"][bimanual] == 0).all()
    assert (part["environment_state"][~bimanual] != 0).any()
    assert np.abs(part["state"]).max() <= 1 + 1e-5


def test_windows_are_those_of_the_stores(tmp_path) -> None:
    data = dataset(tmp_path)
    for index, store in enumerate(data.mixture.stores):
        at = sum(data.sizes[:index]) + 3
        view = data.views[index]
        part = data.gather(np.array([at]))
        np.testing.assert_allclose(view.backward_state(part["state"][0]), store.read("state", 2, 4), atol=1e-5)
        action = view.backward_action(part["action"][0], store.read("state", 3, 4)[0])
        np.testing.assert_allclose(action, store.read("action", 2, 10), atol=1e-5)
        assert data.language_of(np.array([at])) == [store.info(0)["language"]]


@pytest.mark.parametrize("workers", [0, 1])
def test_cameras_of_stores_at_another_rate(tmp_path, workers) -> None:
    data = dataset(tmp_path, images=True, image_size=[16, 24], rate_hz=8.0)
    order = np.random.default_rng(0).permutation(len(data))[:12]
    wanted = data.gather(order)
    with Loader(data, 12, workers=workers) as loader:
        (batch,) = loader.batches(order)
        assert (batch.image["front"].numpy() == wanted["image/front"]).all()
    assert (wanted["image/front"] != 0).any()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 24])
def test_cameras_by_role_and_one_size(tmp_path, workers, cache_bytes) -> None:
    from robopolicy.frames import resize_frames

    data = dataset(tmp_path, images=True, image_size=[16, 24], cache_bytes=cache_bytes)
    order = mixture_indices(data.sizes, data.mixture.shares(data.sizes), 0, 0, 3, 12).ravel()
    with Loader(data, 12, workers=workers) as loader:
        batches = [
            (b.image["front"].numpy().copy(), b.image_mask["front"].numpy().copy(), b.embodiment_index.numpy().copy())
            for b in loader.batches(order)
        ]
    wanted = data.gather(order)
    assert (np.concatenate([b[0] for b in batches]) == wanted["image/front"]).all()
    for frames, mask, index in batches:
        assert frames.shape == (12, 2, 16, 24, 3)
        assert (mask == (index != 1)).all(), "the UR5e has no camera"
        assert (frames[~mask] == 0).all()
        assert (frames[mask] != 0).any()
    both = data.mixture.stores[2]
    at = sum(data.sizes[:2]) + 4
    frame = both.read("image/top", 4, 5)
    assert (data.gather(np.array([at]))["image/front"][0, -1] == resize_frames(frame, (16, 24))[0]).all()


def test_configuration_says_everything_that_is_wrong(tmp_path) -> None:
    stores = mixture_toy.three(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_mixture({"stores": [{**stores[0], "weight": 2.0}, stores[1]], "temperature": 2.0})
    assert "to every store or to none" in str(caught.value)
    assert "exclude each other" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        read_mixture({"stores": stores, "temprature": 1.0})
    with pytest.raises(ConfigError, match="twice"):
        read_mixture({"stores": [stores[0], stores[0]]})
    with pytest.raises(ConfigError, match="no such mixture"):
        read_mixture(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("stores: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_mixture(tmp_path / "bad.yaml")
    slow = mixture_toy.write(tmp_path / "slow.zarr", mixture_toy.bimanual(control_hz=10.0, name="slow"))
    with pytest.raises(ConfigError, match="rate_hz"):
        Mixture.open({"stores": [stores[0], {"path": str(slow)}]})
    both = Mixture.open({"stores": [stores[0], {"path": str(slow)}], "rate_hz": 20.0})
    assert [s.fps for s in both.stores] == [20.0, 20.0]
    assert both.describe()["stores"][1]["resampling"]["from_hz"] == 10.0


def test_unknown_channels_stop_the_mixture_with_their_names(tmp_path) -> None:
    from robopolicy.data.convert.unify import generic_card

    entries = [("a", "unknown"), ("b", "unknown")]
    card = generic_card("odd", state=entries, action=entries, control_hz=20.0)
    with EpisodeStore.create(tmp_path / "odd.zarr", card, joints=False) as store:
        from robopolicy.data.episode import Episode

        rows = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
        store.append(Episode({"state": rows, "action": rows, "time_ns": np.arange(20) * 50_000_000}))
    odd = {"path": str(tmp_path / "odd.zarr")}
    panda = {"path": str(mixture_toy.write(tmp_path / "p.zarr", load_embodiment("panda")))}

    def views(entry):
        mixture = Mixture.open({"stores": [panda, entry]})
        episodes = [np.arange(store.num_episodes) for store in mixture.stores]
        return mixture.views(2, 8, form="relative", environment_state=False, roles=(), episodes=episodes)

    with pytest.raises(EmbodimentError, match=r"\['a', 'b'\]"):
        views(odd)
    assert views({**odd, "leave_out_unknown": True})[1].state_slots == (None, None)
    mapped = views({**odd, "slots": {"a": "reserve.0", "b": "torso.1"}})[1]
    assert mapped.state_mask[SLOTS.index("torso.1")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_packaged_mixtures_build(path) -> None:
    assert isinstance(read_mixture(path), MixtureConfig)
    assert is_mixture(path)
    assert not is_mixture("runs/a.zarr")
    assert yaml.safe_load(path.read_text())["description"]
