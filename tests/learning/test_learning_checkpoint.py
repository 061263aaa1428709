"""Checkpoint directories: verified, atomic, never pickled."""

import errno
import json
import os

import pytest
import torch

from robopolicy import checkpoint
from robopolicy.errors import CheckpointError, StorageError

TENSORS = {"weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}, "ema": {"a": torch.zeros(2, 3)}}
DOCUMENTS = {"policy": {"target": "x:y"}, "trainer": {"step": 5}}


def write(run, step=5, stage=(0, "policy")):
    return checkpoint.save(checkpoint.step_folder(run, *stage, step), tensors=TENSORS, documents=DOCUMENTS)


def test_round_trip(tmp_path):
    stored = checkpoint.load(write(tmp_path))
    assert stored.document("trainer") == {"step": 5}
    read = stored.tensors("weights")
    assert (read["a"] == TENSORS["weights"]["a"]).all()
    assert read["b"].dtype == torch.int64
    assert not list(tmp_path.rglob("*.part"))
    assert {p.suffix for p in stored.path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("file", ["weights.safetensors", "ema.safetensors", "policy.json", "trainer.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_damage_is_named(tmp_path, file, damage):
    path = write(tmp_path)
    checkpoint.load(path)  # control: undamaged it loads
    contents = bytearray((path / file).read_bytes())
    if damage == "delete":
        (path / file).unlink()
    elif damage == "cut":
        (path / file).write_bytes(contents[:-3])
    else:
        contents[len(contents) // 2] ^= 1
        (path / file).write_bytes(contents)
    with pytest.raises(CheckpointError, match=file):
        checkpoint.load(path)


def test_manifest_missing_damaged_or_newer(tmp_path):
    path = write(tmp_path)
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": checkpoint.FORMAT + 1}))
    with pytest.raises(CheckpointError, match="newer format"):
        checkpoint.load(path)
    manifest.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)
    manifest.unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        checkpoint.load(path)


def test_latest_passes_over_incomplete_ones_and_orders_stages_numerically(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.latest(tmp_path)
    write(tmp_path, 900, (2, "a"))
    good = write(tmp_path, 20, (10, "b"))
    cut = write(tmp_path, 30, (10, "b"))
    (cut / "manifest.json").unlink()
    assert checkpoint.latest(tmp_path) == good
    assert checkpoint.find(tmp_path) == good
    assert checkpoint.find(good) == good


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    paths = [write(tmp_path, s) for s in (1, 2, 3, 4, 5)]
    checkpoint.mark_best(tmp_path, paths[0], validation_loss=0.1)
    assert checkpoint.prune(tmp_path, keep_last=2) == [paths[1], paths[2]]
    assert checkpoint.best(tmp_path) == checkpoint.find(tmp_path, "best") == paths[0]
    assert checkpoint.latest(tmp_path) == paths[4]


class FullDisk:
    """Lets ``free`` bytes through, then behaves like a full disk."""

    def __init__(self, free):
        self.free = free

    def __call__(self, file, contents):
        self.free -= len(contents)
        if self.free < 0:
            file.write_bytes(contents[: len(contents) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write_bytes(contents)
        import hashlib

        return {"sha256": hashlib.sha256(contents).hexdigest(), "bytes": len(contents)}


@pytest.mark.parametrize("free", [0, 250, 600])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, free):
    old = write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_write", FullDisk(free))
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path, 2)
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path, 1)  # overwriting does not harm it either
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == old
    checkpoint.load(old)
    assert not [p for p in old.parent.iterdir() if p != old]


def test_leftovers_of_a_killed_writer_are_swept(tmp_path):
    path = write(tmp_path, 1)
    left = path.with_name(".step_00000002.999999999.part")
    left.mkdir()
    alive = path.with_name(".step_00000003.1.part")  # process 1 is always alive
    alive.mkdir()
    write(tmp_path, 4)
    assert not left.exists()
    assert alive.exists()


def test_unwritable_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="earlier checkpoints are intact"):
        write(tmp_path)
