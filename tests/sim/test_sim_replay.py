"""Replay: exact where it can be, judged where it cannot, into other observations and other controllers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.errors import ConfigError, DataError, SimulationError, StorageError
from robopolicy.sim import replay as replaying
from robopolicy.sim.collect import collect
from robopolicy.sim.env import Env
from robopolicy.sim.record import Recording, pack_chunk, unpack_chunk
from robopolicy.sim.replay import judge
from robopolicy.sim.replay_policy import read_episode


def replay(source, out, **settings):
    return replaying.replay(source, out, **{"workers": 0, **settings})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "source.zarr"
    record = Recording(depth=("front",), qpos=True)
    collect("pick_place", "panda", 2, path, split="val", cameras=("front",), record=record)
    return path


def changed(source, path, change, drop=()):
    """A copy of a store, episode by episode through ``change(streams)``, without the streams in ``drop``."""
    with EpisodeStore.open(source) as old:
        extra = {k: v for k, v in old.streams.items() if k.startswith(("executed", "depth", "qpos")) and k not in drop}
        keep = [name for name in old.streams if name not in drop]
        new = EpisodeStore.create(
            path,
            old.embodiment,
            task=old.task,
            cameras=old.cameras,
            environment_state=old.environment_state_names,
            extra=extra,
            provenance={"collect": old.attributes["provenance"]["collect"]},
        )
        with new:
            for number in range(old.num_episodes):
                info = old.info(number)
                streams = {name: np.array(old.read(name, info["start"], info["stop"])) for name in keep}
                change(streams)
                new.append(Episode(streams, info["language"], info["success"], info["metadata"]))
    return path


def test_a_chunk_keeps_every_bit():
    values = np.random.default_rng(0).normal(size=(2, 3)) * 1e-3
    assert np.array_equal(unpack_chunk(pack_chunk(values, 4), 3), values)
    with pytest.raises(SimulationError, match="longer"):
        pack_chunk(values, 1)


def test_what_was_executed_is_stored_beside_the_label(source):
    with EpisodeStore.open(source) as store:
        executed, label = store.read("executed_action"), store.read("action")
        exact = np.stack([unpack_chunk(row, 10)[0] for row in store.read("executed_chunk")])
        assert np.array_equal(executed, exact.astype(np.float32))
        gap = np.abs(executed[:, :3] - label[:, :3]).max()
        assert 0.002 < gap < 0.05, "the noise is in the one and not in the other"
        assert store.streams["executed_action"].channels == store.embodiment.action.names
        assert store.read("depth/front").dtype == np.uint16


def test_into_other_observations_every_episode_is_identical(source, tmp_path):
    done = replay(source, tmp_path / "new.zarr", record=Recording(cameras=("wrist",), depth=("wrist",), point_cloud=32))
    assert done.counts == {"identical": 2, "success": 0, "deviated": 0, "failed": 0}
    with EpisodeStore.open(source) as old, EpisodeStore.open(done.path) as new:
        for stream in ("state", "environment_state", "action", "executed_action", "executed_chunk", "joint_command"):
            assert np.array_equal(old.read(stream), new.read(stream)), stream
        assert new.cameras == ("wrist",)
        assert new.read("image/wrist").shape[1:] == (96, 96, 3)
        assert new.read("point_cloud").shape[1:] == (32 * 6,)
        assert new.embodiment.hash == old.embodiment.hash
        told = new.info(1)["metadata"]
        assert told["replay"] == {
            "episode": 1,
            "mode": "actions",
            "verdict": "identical",
            "deviation": 0.0,
            "channel": "",
        }
        assert told["index"] == old.info(1)["metadata"]["index"]
        assert new.attributes["provenance"]["replay"]["content_hash"] == old.content_hash
    summary = json.loads(done.summary_path.read_text())
    assert summary["counts"]["identical"] == summary["written"] == 2
    again = replay(done.path, tmp_path / "again.zarr", record=Recording(cameras=("front",)), episodes=[1])
    assert [v.verdict for v in again.verdicts] == ["identical"], "a replay can be replayed"
    with EpisodeStore.open(source) as old, EpisodeStore.open(again.path) as new:
        assert np.array_equal(old.read("image/front")[-new.num_steps :], new.read("image/front")), "pictures, too"
    with pytest.raises(StorageError, match="already exists"):
        replay(source, done.path)


def test_workers_change_nothing(source, tmp_path):
    here, there = (replay(source, tmp_path / f"{n}.zarr", workers=n) for n in (0, 2))
    assert here.verdicts == there.verdicts
    with EpisodeStore.open(here.path) as a, EpisodeStore.open(there.path) as b:
        assert a.content_hash == b.content_hash


def test_labels_alone_do_not_repeat_a_noisy_episode(source, tmp_path):
    """Control of the test above: a store of before what was executed was recorded."""
    old = changed(source, tmp_path / "old.zarr", lambda streams: None, drop=("executed_action", "executed_chunk"))
    done = replay(old, tmp_path / "new.zarr")
    assert done.counts["identical"] == 0
    assert all(v.deviation > 1e-3 for v in done.verdicts)
    with EpisodeStore.open(done.path) as store:
        assert "executed_chunk" in store.streams


def test_failed_episodes_are_left_out_unless_asked_for(source, tmp_path):
    def never_close(streams):
        chunks = [unpack_chunk(row, 10) for row in streams["executed_chunk"]]
        for chunk in chunks:
            chunk[:, 9] = 1.0
        streams["executed_chunk"] = np.stack([pack_chunk(chunk, 2) for chunk in chunks])

    broken = changed(source, tmp_path / "broken.zarr", never_close)
    done = replay(broken, tmp_path / "without.zarr")
    assert (done.counts["failed"], done.written) == (2, 0)
    assert "position" in done.verdicts[0].channel
    kept = replay(broken, tmp_path / "with.zarr", keep_failures=True)
    assert kept.written == 2
    with EpisodeStore.open(kept.path) as store:
        assert store.info(0)["success"] is False
        assert store.info(0)["metadata"]["replay"]["verdict"] == "failed"


@pytest.mark.parametrize("controller", ["joint_delta", "ee_delta", "ee_stiffness"])
def test_into_another_controller_and_back(source, tmp_path, controller):
    there = replay(source, tmp_path / "there.zarr", controller=controller, episodes=[0])
    assert there.counts["failed"] == 0
    with EpisodeStore.open(there.path) as store:
        assert store.embodiment.name == f"panda@{controller}"
        assert store.read("action").shape[1] == len(store.embodiment.action)
    same = replay(there.path, tmp_path / "same.zarr")
    assert same.counts["identical"] == 1, "in its own controller a store repeats to the bit"
    if controller == "joint_delta":
        other = replay(there.path, tmp_path / "other.zarr", controller="ee_delta")
        assert other.counts["success"] == 1
        assert other.verdicts[0].deviation < 0.02


def test_states_are_shown_exactly_and_need_no_physics(source, tmp_path):
    record = Recording(cameras=("front",), depth=("front",))
    done = replay(source, tmp_path / "states.zarr", mode="states", record=record, controller="ee_delta")
    assert done.counts["identical"] == 2
    with EpisodeStore.open(source) as old, EpisodeStore.open(done.path) as new:
        then, now = old.read("image/front").astype(int), new.read("image/front").astype(int)
        same, shifted = ((np.abs(a - b) > 8).mean() for a, b in ((then, now), (then[1:], now[:-1])))
        assert same < 0.003, "a picture in motion shows where things were one step of the physics before"
        assert shifted > 5 * same, "control: the pictures of the row before differ more"
        by_actions = replay(source, tmp_path / "actions.zarr", controller="ee_delta")
        with EpisodeStore.open(by_actions.path) as moved:
            assert np.abs(new.read("action") - moved.read("action")).max() < 1e-5, "and the same labels"
    with pytest.raises(ConfigError, match="forces cannot be replayed"):
        replay(source, tmp_path / "x.zarr", mode="states", record=Recording(sensors=("wrench",)))
    blind = changed(source, tmp_path / "blind.zarr", lambda streams: None, drop=("qpos",))
    with pytest.raises(DataError, match="qpos=true"):
        replay(blind, tmp_path / "x.zarr", mode="states")

    def lifted(streams):
        streams["qpos"][:, :3] += 0.05

    other = changed(source, tmp_path / "lifted.zarr", lifted)
    assert replay(other, tmp_path / "y.zarr", mode="states").counts["deviated"] == 2, (
        "control: other states are noticed"
    )


def test_a_variant_is_replayed_in_its_variant(tmp_path):
    collected = collect("pick_place", "panda", 1, tmp_path / "a.zarr", split="val", variant="shifted")
    with EpisodeStore.open(collected.path) as store:
        told = store.info(0)["metadata"]
        assert told["variant"] == "shifted"
        assert 0.8 <= told["variation"]["friction"] <= 1.2
    same = replay(collected.path, tmp_path / "b.zarr")
    assert same.counts["identical"] == 1
    nominal = replay(collected.path, tmp_path / "c.zarr", variant="nominal", keep_failures=True)
    assert nominal.counts["identical"] == 0
    with EpisodeStore.open(nominal.path) as store:
        assert nominal.verdicts[0].deviation > 0.001
        assert store.attributes["provenance"]["replay"]["collect"].get("variant") is None


def test_judging():
    env = Env("pick_place", "panda")
    names = (*env.card.state.names, *env.task.environment_state_names)
    state, objects = np.zeros((4, 10), np.float32), np.zeros((4, 7), np.float32)
    recorded = dataclasses.replace(_nothing(), state=state, environment_state=objects)

    def verdict(change, success=True, mode="actions"):
        new = {"state": state.copy(), "environment_state": objects.copy()}
        change(new)
        return judge(recorded, new, names, success, mode)

    assert verdict(lambda new: None)[0] == "identical"
    assert verdict(lambda new: None, success=False)[0] == "identical", "a recorded failure may be repeated"

    def moved(by, column, key="state"):
        def change(new):
            new[key][2, column] += by

        return change

    assert verdict(moved(0.01, 1)) == ("success", pytest.approx(0.01), "ee_position.y")
    assert verdict(moved(0.03, 1))[0] == "deviated"
    assert verdict(moved(0.03, 1), success=False)[0] == "failed"
    assert verdict(moved(0.5, 9))[0] == "success", "grippers are left out"
    assert verdict(moved(0.5, 3, "environment_state"))[0] == "success", "and angles of objects"
    assert verdict(moved(0.5, 2, "environment_state"))[2] == "cube_position.z"
    assert verdict(moved(0.01, 1), mode="states")[0] == "deviated"


def _nothing():
    from robopolicy.sim.replay_policy import RecordedEpisode

    fields = [field.name for field in dataclasses.fields(RecordedEpisode)]
    return RecordedEpisode(**dict.fromkeys(fields))


def test_refusals_and_the_command(source, tmp_path, capsys):
    with pytest.raises(ConfigError, match="replay mode"):
        replay(source, tmp_path / "x.zarr", mode="frames")
    with EpisodeStore.open(source) as old:
        other = EpisodeStore.create(tmp_path / "foreign.zarr", old.embodiment, task="pick_place")
        other.close()
    with pytest.raises(DataError, match="which episodes"):
        replay(tmp_path / "foreign.zarr", tmp_path / "x.zarr")
    assert main(["replay", str(source), f"out={tmp_path / 'cli.zarr'}", "episodes=1", "workers=0"]) == 0
    assert "1 identical" in capsys.readouterr().out
    assert main(["replay", str(source), f"out={tmp_path / 'cli2.zarr'}", "controller=ee_dleta"]) == 2
    assert "did you mean 'ee_delta'" in capsys.readouterr().err


def test_an_old_store_can_be_continued(source, tmp_path):
    """A store without what was executed goes on without it."""
    old = changed(source, tmp_path / "old.zarr", lambda streams: None, drop=("executed_action", "executed_chunk"))
    record = Recording(depth=("front",), qpos=True)
    done = collect("pick_place", "panda", 3, old, split="val", cameras=("front",), record=record)
    assert done.episodes == 3
    with EpisodeStore.open(old) as store:
        assert "executed_chunk" not in store.streams
        assert [store.info(i)["metadata"]["index"] for i in range(3)] == [0, 1, 2]
    shutil.rmtree(old)


def test_the_recorded_episode_is_read_by_its_number(source):
    with EpisodeStore.open(source) as store:
        episode = read_episode(store, 1)
        assert (episode.split, episode.index) == ("val", store.info(1)["metadata"]["index"])
        assert episode.length == store.info(1)["length"]
        assert episode.qpos.shape[1] > 10
