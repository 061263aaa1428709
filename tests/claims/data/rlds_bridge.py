"""The real RLDS shard of Bridge converts without tensorflow; images are the source's own files, actions absolute.

    python tests/claims/data/rlds_bridge.py --work runs/rlds_bridge --out docs/results

Budget: quick, some seconds. The shard (25 episodes of 10 steps, four cameras of 64x64, language) is found through
ROBOPOLICY_RECORDINGS. It is parsed a second time by the few lines below, its images are decoded by Pillow and its
rotations computed by scipy: every stored JPEG must be the source's, byte for byte, every decoded frame Pillow's, every
target that of the formula. The control reads roll, pitch and yaw about the moving axes instead of the fixed ones.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.engine import convert
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.rotations import rotation_6d_to_matrix

EPISODES, STEPS = 25, 10
TOOL = np.diag([-1.0, 1.0, -1.0])
"""Rotation of the card's tool where Bridge's roll, pitch and yaw are zero: it points down."""
TOLERANCE = 1e-6
"""Of float32 poses, in metres and in entries of a rotation matrix."""


def recording() -> Path:
    """The folder of the data set.

    Raises:
        SystemExit: it is not there.
    """
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("ROBOPOLICY_RECORDINGS") or beside) / "rlds_bridge_octo" / "1.0.0"
    if not path.is_dir():
        raise SystemExit(f"no recording at {path}; set ROBOPOLICY_RECORDINGS to the folder that holds it")
    return path


def parts(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every field of a protobuf message that has only fields of varying length."""
    at = 0
    while at < len(message):
        numbers = []
        for _ in range(2):
            value = shift = 0
            while True:
                byte = message[at]
                at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
            numbers.append(value)
        yield numbers[0] >> 3, message[at : at + numbers[1]]
        at += numbers[1]


def records(path: Path) -> Iterator[dict[str, bytes]]:
    """Every episode of a TFRecord file: key -> payload of its list."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        entries = [dict(parts(e)) for _, f in parts(data[at + 12 : at + 12 + size]) for _, e in parts(f)]
        yield {entry[1].decode(): next(parts(entry[2]))[1] for entry in entries}
        at += size + 16


def numbers(features: dict[str, bytes], key: str) -> Any:
    """A float list [STEPS, 7]."""
    return np.frombuffer(next(parts(features[key]))[1], "<f4").reshape(STEPS, 7).astype(float)


def compare(store: EpisodeStore, index: int, features: dict[str, bytes], order: str) -> dict[str, Any]:
    """One episode; ``order`` of the Euler angles as scipy writes it."""
    start, stop = STEPS * index, STEPS * index + STEPS
    was, did = numbers(features, "steps/observation/state"), numbers(features, "steps/action")
    state, action = (store.read(name, start, stop).astype(float) for name in ("state", "action"))
    before = Rotation.from_euler(order, was[:, 3:6])
    turned = Rotation.from_euler(order, did[:, 3:6]) * before
    pairs = (
        (state[:, :3], was[:, :3]),
        (action[:, :3], was[:, :3] + did[:, :3]),
        (rotation_6d_to_matrix(state[:, 3:9]), before.as_matrix() @ TOOL),
        (rotation_6d_to_matrix(action[:, 3:9]), turned.as_matrix() @ TOOL),
        (action[:, 9], did[:, 6]),
        (store.read("source/action", start, stop), did),
    )
    same = decoded = 0
    for camera in store.cameras:
        reader: Any = store.images(camera)
        blobs = [blob for _, blob in parts(features[f"steps/observation/{camera}"])]
        frames = reader.read(start, stop)
        same += sum(a == b for a, b in zip(reader.blobs(start, stop), blobs, strict=True))
        shown = (np.asarray(Image.open(io.BytesIO(blob))) for blob in blobs)
        decoded += sum(np.array_equal(frame, image) for frame, image in zip(frames, shown, strict=True))
    texts = {text for _, text in parts(features["steps/language_instruction"])}
    return {
        "error": max(float(np.abs(a - b).max()) for a, b in pairs),
        "files": same,
        "frames": decoded,
        "language": texts == {store.info(index)["language"].encode()},
    }


def main() -> None:
    """Convert with one and with two processes, compare, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    folder, work = recording(), options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    hashes = []
    for workers in (1, 2):
        convert(folder, work / f"{workers}.zarr", format="auto", workers=workers)
        with EpisodeStore.open(work / f"{workers}.zarr") as store:
            hashes.append(store.content_hash)
    truth = list(records(folder / "bridge_dataset-train.tfrecord-00000-of-00001"))
    with EpisodeStore.open(work / "1.zarr") as store:
        found = [compare(store, i, features, "xyz") for i, features in enumerate(truth)]
        control = [compare(store, i, features, "XYZ") for i, features in enumerate(truth)]
        held = (store.num_episodes, store.num_steps, len(store.cameras))
    frames = EPISODES * STEPS * 4
    value = {
        "episodes, steps, cameras": list(held),
        "images equal to the source's files": sum(f["files"] for f in found),
        "decoded frames equal to Pillow's": sum(f["frames"] for f in found),
        "largest error of a pose (m, matrix entry)": max(f["error"] for f in found),
        "instructions equal": sum(f["language"] for f in found),
        "one and two processes equal": hashes[0] == hashes[1],
    }
    reached = (
        held == (EPISODES, EPISODES * STEPS, 4)
        and value["images equal to the source's files"] == frames
        and value["decoded frames equal to Pillow's"] == frames
        and value["largest error of a pose (m, matrix entry)"] < TOLERANCE
        and value["instructions equal"] == EPISODES
        and hashes[0] == hashes[1]
    )
    worst = max(f["error"] for f in control)
    result = ClaimResult(
        claim="the real RLDS shard of Bridge converts without tensorflow: own JPEG files, absolute targets, language",
        source="own; conventions from rail-berkeley/bridge_data_robot",
        command="python tests/claims/data/rlds_bridge.py --work runs/rlds_bridge --out docs/results",
        commit=claim_run.commit(),
        target=f"{EPISODES} x {STEPS} steps, {frames} images equal, poses within {TOLERANCE:g}",
        value=value,
        interval=None,
        n=EPISODES,
        seeds=[],
        control={"what": "error with angles about moving axes", "value": worst, "failed": worst > 1e-2},
        passed=bool(reached and worst > 1e-2),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "rlds_bridge")


if __name__ == "__main__":
    main()
