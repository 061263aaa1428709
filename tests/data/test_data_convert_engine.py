"""The engine: order, processes, restart, refusals, audit. On a made-up format, so that every fault can be planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import convert_toy_format as toy
import numpy as np
import pytest

from robopolicy.data.audit import AUDIT_FILE, JOURNAL_FILE, read_audit, table
from robopolicy.data.codecs import decode_jpeg, encode_jpeg
from robopolicy.data.convert.engine import ConversionReport, convert
from robopolicy.data.convert.recognise import recognise
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, EmbodimentError, StorageError, UnknownNameError


@pytest.fixture(autouse=True)
def own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOPOLICY_CONFIG_PATH", str(toy.register(tmp_path)))


def run(tmp_path: Path, name: str = "out.zarr", **options: Any) -> ConversionReport:
    return convert(tmp_path / "src", tmp_path / name, format="toy", **options)


def ids(path: Path) -> list[str]:
    store = EpisodeStore.open(path)
    return [store.info(i)["metadata"]["source"]["id"] for i in range(store.num_episodes)]


def verify(path: Path, names: list[str], scale: float = 1.0) -> None:
    """The store holds exactly the episodes of that source, numbers exact, frames as one JPEG coding leaves them."""
    store = EpisodeStore.open(path)
    assert ids(path) == names
    for i, name in enumerate(names):
        index = int(name.removeprefix("ep"))
        made, info = toy.toy_episode(index, 20 + index % 7, scale), store.info(i)
        for stream in ("state", "action"):
            wanted = np.asarray(made.streams[stream]).astype(np.float32)
            np.testing.assert_array_equal(store.read(stream, info["start"], info["stop"]), wanted)
        frames = np.asarray(made.streams["image/front"])
        stored = store.read("image/front", info["start"], info["stop"])
        coded = np.empty_like(frames)
        for frame, place in zip(frames, coded, strict=True):
            decode_jpeg(encode_jpeg(frame), place)
        np.testing.assert_array_equal(stored, coded)


def tree(path: Path) -> dict[str, bytes]:
    """All files but the audit, without the time of creation in the root record."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name not in (AUDIT_FILE, JOURNAL_FILE):
            found[str(file.relative_to(path))] = file.read_bytes()
    return found


def content(path: Path) -> str:
    return EpisodeStore.open(path).content_hash


def test_one_and_two_processes_write_the_same_store_in_the_order_of_the_source(tmp_path: Path) -> None:
    # the first episode takes longest, so that workers finish out of order
    toy.write_source(tmp_path / "src", 9, slow={"ep0": 0.4})
    one, two = run(tmp_path, "one.zarr"), run(tmp_path, "two.zarr", workers=2)
    verify(tmp_path / "one.zarr", [f"ep{i}" for i in range(9)])
    assert content(tmp_path / "one.zarr") == content(tmp_path / "two.zarr")
    assert (one.episodes, one.steps) == (two.episodes, two.steps) == (9, sum(20 + i % 7 for i in range(9)))
    assert not list(tmp_path.glob(".*spool*"))
    # control: another scale is another content
    run(tmp_path, "three.zarr", options={"scale": 1.5})
    assert content(tmp_path / "one.zarr") != content(tmp_path / "three.zarr")


def test_a_conversion_continues_where_it_was(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 8)
    first = run(tmp_path, limit=3)
    assert (first.converted, first.episodes) == (3, 3)
    second = run(tmp_path)
    assert (second.converted, second.episodes) == (5, 8)
    verify(tmp_path / "out.zarr", [f"ep{i}" for i in range(8)])
    assert set(read_audit(tmp_path / "out.zarr")["episodes"]) == {f"ep{i}" for i in range(8)}
    assert run(tmp_path).converted == 0


def test_a_deleted_episode_does_not_come_back(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 4)
    run(tmp_path)
    with EpisodeStore.open(tmp_path / "out.zarr", mode="a") as store:
        store.set_tombstones([1])
    assert run(tmp_path).converted == 0
    assert ids(tmp_path / "out.zarr") == ["ep0", "ep2", "ep3"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": {"scale": 2.0}}, "options"),
        ({"image_size": (6, 8)}, "image_size"),
        ({"codec": "raw"}, "codec"),
        ({"repair": ("straighten",)}, "repair"),
    ],
)
def test_another_conversion_into_the_same_store_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    toy.write_source(tmp_path / "src", 2)
    run(tmp_path, limit=1)
    with pytest.raises(DataError, match=f"differ in .*{named}"):
        run(tmp_path, **change)
    assert ids(tmp_path / "out.zarr") == ["ep0"]
    assert run(tmp_path).episodes == 2  # and the lock was given back


def test_another_source_into_the_same_store_is_refused(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 2)
    toy.write_source(tmp_path / "other", 2)
    run(tmp_path)
    with pytest.raises(DataError, match="source"):
        convert(tmp_path / "other", tmp_path / "out.zarr", format="toy")


def test_a_store_that_no_conversion_made_is_refused(tmp_path: Path) -> None:
    import data_toy

    toy.write_source(tmp_path / "src", 2)
    data_toy.create(tmp_path / "out.zarr").close()
    with pytest.raises(DataError, match="no conversion made"):
        run(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", ["raise", "bug", "nan", "crooked"])
def test_a_bad_episode_is_named_and_those_before_it_are_kept(tmp_path: Path, fault: str, workers: int) -> None:
    toy.write_source(tmp_path / "src", 5, faults={"ep3": fault})
    message = {
        "raise": "page 7 is torn",
        "bug": "ZeroDivisionError",
        "nan": "row 3, channel b",
        "crooked": "straighten",
    }
    with pytest.raises(DataError, match=f"ep3.*{message[fault]}"):
        run(tmp_path, workers=workers)
    verify(tmp_path / "out.zarr", ["ep0", "ep1", "ep2"])
    report = run(tmp_path, workers=workers, skip_bad=True)
    assert report.skipped == ("ep3",)
    verify(tmp_path / "out.zarr", ["ep0", "ep1", "ep2", "ep4"])
    reason = read_audit(tmp_path / "out.zarr")["skipped"]["ep3"]["reason"]
    assert message[fault].split(".*")[0] in reason or fault == "crooked"


def test_a_repair_that_was_chosen_makes_a_bad_episode_good(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 3, faults={"ep1": "crooked"})
    with pytest.raises(DataError, match=r"repair=\[straighten\]"):
        run(tmp_path, "refused.zarr")
    run(tmp_path, repair=("straighten",))
    verify(tmp_path / "out.zarr", ["ep0", "ep1", "ep2"])
    assert read_audit(tmp_path / "out.zarr")["counts"]["crooked"] == {"repaired": 1}


def test_a_worker_that_dies_names_its_episode(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 6, faults={"ep4": "die"})
    with pytest.raises(DataError, match=r"episode 'ep4' died.*signal 9"):
        run(tmp_path, workers=2)
    assert not list(tmp_path.glob(".*spool*"))
    report = run(tmp_path, workers=2, skip_bad=True)
    assert report.skipped == ("ep4",)
    verify(tmp_path / "out.zarr", ["ep0", "ep1", "ep2", "ep3", "ep5"])


def test_kill_nine_at_any_moment_loses_nothing_committed(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 40, sleep_s=0.01)
    out = tmp_path / "out.zarr"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, "-m", "robopolicy", "data", "convert", str(tmp_path / "src"), str(out), "format=toy"]
    rng, kills, seen = np.random.default_rng(5), 0, 0
    for workers in (1, 2):
        child = subprocess.Popen(
            [*words, f"workers={workers}", "progress=false"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not (out / "zarr.json").exists() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0.0, 0.3)))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
        found = ids(out)
        assert found == [f"ep{i}" for i in range(len(found))]
        assert len(found) >= seen
        seen = len(found)
    assert kills
    run(tmp_path)
    verify(out, [f"ep{i}" for i in range(40)])
    audited = read_audit(out)["episodes"]
    assert set(audited) == set(ids(out)), "the audit of episodes from killed runs was lost"
    assert not (out / JOURNAL_FILE).exists()


@pytest.mark.parametrize("limit", [2, 3])
def test_what_workers_of_a_killed_run_left_is_removed_by_one_process(tmp_path: Path, limit: int) -> None:
    toy.write_source(tmp_path / "src", 3)
    run(tmp_path, limit=limit)  # 3: nothing is missing for the second run
    left = tmp_path / ".out.zarr.spool"
    left.mkdir()
    (left / "0.episode").write_bytes(b"half")
    run(tmp_path)
    assert not left.exists()
    verify(tmp_path / "out.zarr", ["ep0", "ep1", "ep2"])


def test_ctrl_c_leaves_a_store_that_continues(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 10)

    def stop(done: int, total: int, note: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=stop, workers=2)
    assert ids(tmp_path / "out.zarr") == ["ep0", "ep1", "ep2", "ep3"]
    run(tmp_path)
    verify(tmp_path / "out.zarr", [f"ep{i}" for i in range(10)])


def test_two_conversions_into_one_store_at_a_time_are_refused(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 3)
    refused: list[str] = []

    def meanwhile(done: int, total: int, note: str) -> None:
        with pytest.raises(StorageError, match="being written") as caught:
            run(tmp_path)
        refused.append(str(caught.value))

    run(tmp_path, progress=meanwhile)
    assert len(refused) == 3


def test_frames_are_brought_to_another_size_and_raw_stays_exact(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 2)
    run(tmp_path, "small.zarr", image_size=(6, 8))
    assert EpisodeStore.open(tmp_path / "small.zarr").read("image/front").shape[1:] == (6, 8, 3)
    run(tmp_path, "raw.zarr", codec="raw")
    stored = EpisodeStore.open(tmp_path / "raw.zarr").read("image/front", 0, 20)
    np.testing.assert_array_equal(stored, toy.toy_episode(0, 20).streams["image/front"])


def test_a_card_given_by_name_has_to_have_the_names_of_the_source(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 2)
    with pytest.raises(EmbodimentError, match=r"does not fit.*given"):
        run(tmp_path, embodiment="panda")
    from robopolicy.data.convert.unify import generic_card

    card = generic_card(
        "swapped", state=[("b", "rad"), ("a", "rad")], action=[("a", "rad"), ("b", "rad")], control_hz=20
    )
    import yaml

    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump(card.to_dict()))
    run(tmp_path, embodiment=tmp_path / "swapped.yaml")
    store, made = EpisodeStore.open(tmp_path / "out.zarr"), toy.toy_episode(0, 20)
    np.testing.assert_array_equal(store.read("state", 0, 20), np.asarray(made.streams["state"])[:, ::-1].astype("f4"))
    np.testing.assert_array_equal(store.read("action", 0, 20), np.asarray(made.streams["action"]).astype("f4"))


def test_recognition_wants_exactly_one_format(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 1)
    assert recognise(tmp_path / "src") == "toy"
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"no format knows.*notes\.txt.*toy"):
        recognise(tmp_path / "junk")
    toy.register(tmp_path, "toy_again")
    with pytest.raises(DataError, match=r"several formats.*toy: it has.*toy_again: it has.*format="):
        recognise(tmp_path / "src")
    with pytest.raises(DataError, match="nothing to convert"):
        recognise(tmp_path / "gone")
    with pytest.raises(UnknownNameError, match="did you mean 'toy'"):
        convert(tmp_path / "src", tmp_path / "x.zarr", format="toyy")


def test_a_format_that_cannot_be_imported_does_not_hide_the_others(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 1)
    (tmp_path / "configs" / "format" / "broken.yaml").write_text("# robopolicy data convert\ntarget: no.such:THING\n")
    assert recognise(tmp_path / "src") == "toy"


def test_options_that_the_format_does_not_have_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 1)
    with pytest.raises(ConfigError, match="did you mean 'scale'"):
        run(tmp_path, options={"scal": 1.0})
    assert not (tmp_path / "out.zarr").exists()


def test_the_command_converts_and_shows_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli.main import main

    toy.write_source(tmp_path / "src", 3, expected=5)
    words = ["data", "convert", str(tmp_path / "src"), str(tmp_path / "o.zarr"), "options.scale=2.0", "progress=false"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "missing_episode" in shown
    assert "3 episodes" in shown
    verify(tmp_path / "o.zarr", ["ep0", "ep1", "ep2"], scale=2.0)
    assert main([*words, "options.scale=3.0"]) == 2


def test_the_audit_survives_a_cut_journal(tmp_path: Path) -> None:
    toy.write_source(tmp_path / "src", 3)
    run(tmp_path, limit=2)
    out = tmp_path / "out.zarr"
    document = read_audit(out)
    lines = [json.dumps({"id": name, **entry}) for name, entry in document["episodes"].items()]
    (out / AUDIT_FILE).unlink()
    (out / JOURNAL_FILE).write_text("\n".join(lines)[:-7])
    run(tmp_path)
    audited = read_audit(out)
    assert set(audited["episodes"]) == {"ep0", "ep2"}  # the cut line is lost, its neighbours are not
    assert audited["num_episodes"] == 3
    assert table(audited).startswith("audit: 3 episodes")
    (out / AUDIT_FILE).write_text('{"schema": ')
    with pytest.raises(DataError, match="damaged"):
        read_audit(out)


def test_help_shows_the_options_of_a_format(capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli.main import main

    assert main(["data", "convert", "format=toy", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "factor of the state" in shown
    assert "repair=[]" in shown
    assert main(["data", "convert", "--help"]) == 0
    assert "factor of the state" not in capsys.readouterr().out


def test_a_source_that_no_worker_can_open_is_told_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robopolicy.data.convert import pool

    toy.write_source(tmp_path / "src", 4)
    opened = pool.Request.to_dict

    def spoiled(self: pool.Request) -> dict[str, Any]:
        return {**opened(self), "source": str(tmp_path / "gone")}

    monkeypatch.setattr(pool.Request, "to_dict", spoiled)
    with pytest.raises(DataError, match="gone"):
        run(tmp_path, workers=2)
    assert not list(tmp_path.glob(".*spool*"))
