"""Replay buffers written by diffusion_policy's own classes are read here, and ours are read there.

    python tests/claims/data/replay_peer.py --work runs/replay_peer --out docs/results \
        --peer-python PEER/bin/python --peer-source CHECKOUT

Budget: quick, under a minute. PEER is an environment with zarr 2.16, numcodecs 0.12, numpy 1.26 and imagecodecs 2023;
CHECKOUT is a checkout of https://github.com/real-stanford/universal_manipulation_interface, of which
``diffusion_policy/common/replay_buffer.py`` and ``diffusion_policy/codecs`` are used, as they are. Control: an export
whose ``episode_ends`` go one row too far must be refused there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult

ENDS = (20, 33, 60)
PEER_WRITES = """
import sys, numpy as np, zarr
sys.path.insert(0, sys.argv[1])
from diffusion_policy.common.replay_buffer import ReplayBuffer
from diffusion_policy.codecs.imagecodecs_numcodecs import register_codecs, JpegXl, Jpeg2k
register_codecs(verbose=False)
values = dict(np.load(sys.argv[2]))
ends = values.pop("ends")
sets = ("umi", JpegXl(level=99, numthreads=1), ["camera0_rgb"]), ("dp", Jpeg2k(level=50), ["image"])
for target, codec, images in sets:
    buffer = ReplayBuffer.create_empty_zarr(storage=zarr.MemoryStore())
    own = {k[len(target) + 1:]: v for k, v in values.items() if k.startswith(target + "_")}
    start = 0
    for end in ends:
        buffer.add_episode({k: v[start:end] for k, v in own.items() if k not in images}, compressors=None)
        start = end
    for name in images:
        array = buffer.data.require_dataset(name=name, shape=own[name].shape, chunks=(1,) + own[name].shape[1:],
                                            compressor=codec, dtype=np.uint8)
        for i in range(len(own[name])):
            array[i] = own[name][i]
        np.save(f"{sys.argv[3]}/{target}_{name}.npy", array[:])
    with zarr.ZipStore(f"{sys.argv[3]}/{target}.zarr.zip", mode="w") as store:
        buffer.save_to_store(store=store)
"""
PEER_READS = """
import json, sys, numpy as np, zarr
sys.path.insert(0, sys.argv[1])
from diffusion_policy.common.replay_buffer import ReplayBuffer
from diffusion_policy.codecs.imagecodecs_numcodecs import register_codecs
register_codecs(verbose=False)
store = zarr.ZipStore(sys.argv[2], mode="r") if sys.argv[2].endswith(".zip") else zarr.DirectoryStore(sys.argv[2])
buffer = ReplayBuffer.copy_from_store(src_store=store, store=zarr.MemoryStore())
episode = [buffer.get_episode(i) if hasattr(buffer, "get_episode") else None for i in range(buffer.n_episodes)]
np.savez(sys.argv[3], ends=buffer.episode_ends[:], **{k: v[:] for k, v in buffer.items()})
print(json.dumps({"episodes": int(buffer.n_episodes), "rows": [len(e["action"]) for e in episode if e]}))
"""


def peer(python: str, program: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program in the peer's environment."""
    command = [python, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def peer_values() -> dict[str, np.ndarray]:
    """What both of the peer's data sets hold, by name of the set and key."""
    from data_replay import smooth_frames

    rng, rows = np.random.default_rng(0), ENDS[-1]
    return {
        "ends": np.array(ENDS),
        "umi_robot0_eef_pos": rng.normal(size=(rows, 3)).astype(np.float32),
        "umi_robot0_eef_rot_axis_angle": rng.uniform(-2, 2, (rows, 3)).astype(np.float32),
        "umi_robot0_gripper_width": rng.uniform(0, 0.09, (rows, 1)).astype(np.float32),
        "umi_robot0_demo_start_pose": rng.normal(size=(rows, 6)),
        "umi_robot0_demo_end_pose": rng.normal(size=(rows, 6)),
        "umi_camera0_rgb": smooth_frames(rows, 64, 64),
        "dp_action": rng.normal(size=(rows, 7)).astype(np.float32),
        "dp_state": rng.normal(size=(rows, 9)).astype(np.float32),
        "dp_image": smooth_frames(rows, 48, 64, 1),
    }


def theirs_read_here(work: Path, values: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest differences between what the peer wrote and what our converters deliver."""
    from data_replay import open_source, store_all

    from robopolicy.data.convert import diffusion_policy, umi

    errors: dict[str, float] = {}
    source = open_source(umi.FORMAT, work / "umi.zarr.zip")
    store, _ = store_all(source, work / "umi.zarr")
    position, width = store.read("state")[:, :3], store.read("source/robot0_gripper_width")
    errors["umi numbers"] = float(
        max(
            np.abs(position - values["umi_robot0_eef_pos"]).max(),
            np.abs(width - values["umi_robot0_gripper_width"]).max(),
        )
    )
    frames = np.load(work / "umi_camera0_rgb.npy")
    errors["umi: largest pixel error"] = float(
        np.abs(store.read("image/camera0").astype(int) - frames.astype(int)).max()
    )
    source = open_source(diffusion_policy.FORMAT, work / "dp.zarr.zip", fps=10)
    store, _ = store_all(source, work / "dp.zarr")
    pairs = [(store.read(k), values[f"dp_{k}"]) for k in ("state", "action")]
    errors["dp numbers"] = float(max(np.abs(a - b).max() for a, b in pairs))
    frames = np.load(work / "dp_image.npy")
    errors["dp: largest pixel error"] = float(np.abs(store.read("image/image").astype(int) - frames.astype(int)).max())
    return errors


def ours_read_there(work: Path, python: str, checkout: str) -> dict[str, float]:
    """Largest differences between a store and what the peer reads from its exports."""
    import data_toy

    from robopolicy.data.export.engine import export
    from robopolicy.data.store import EpisodeStore

    with data_toy.create(work / "toy.zarr") as made:
        for i in range(3):
            made.append(data_toy.episode(made, i))
    store = EpisodeStore.open(work / "toy.zarr")
    errors: dict[str, float] = {}
    for name, images in (("raw.zarr", "raw"), ("j2k.zarr.zip", "jpeg2k")):
        export(store.path, work / name, format="diffusion_policy", options={"images": images})
        done = peer(python, PEER_READS, checkout, work / name, work / "read.npz")
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        read = np.load(work / "read.npz")
        same = [np.array_equal(read[k], store.read(k)) for k in ("state", "action", "time_ns", "environment_state")]
        errors[f"{images}: streams that differ"] = float(same.count(False) + (read["ends"] != store.episode_ends).any())
        front = read["front"].astype(int) - store.read("image/front").astype(int)
        errors[f"{images}: largest pixel error"] = float(np.abs(front).max())
        lengths = np.diff([0, *store.episode_ends]).tolist()
        errors[f"{images}: episodes that differ"] = float(json.loads(done.stdout.splitlines()[-1])["rows"] != lengths)
    return errors


def main() -> None:
    """Both ways, the control, the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], **{"peer-python": "", "peer-source": ""})
    python, checkout = options.peer_python, options.peer_source
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    values = peer_values()
    np.savez(options.work / "values.npz", **values)
    done = peer(python, PEER_WRITES, checkout, options.work / "values.npz", options.work)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    here = theirs_read_here(options.work, values)
    there = ours_read_there(options.work, python, checkout)
    ends = options.work / "raw.zarr/meta/episode_ends/0"
    wrong = np.frombuffer(ends.read_bytes(), np.int64).copy()
    wrong[-1] += 1
    ends.write_bytes(wrong.tobytes())
    refused = peer(python, PEER_READS, checkout, options.work / "raw.zarr", options.work / "read.npz").returncode != 0
    lossy = there.pop("jpeg2k: largest pixel error")
    rounding = here.pop("umi: largest pixel error")
    exact = rounding <= 1 and not any(v > 1e-6 for v in [*here.values(), *there.values()])
    result = ClaimResult(
        claim="replay buffers of diffusion_policy's and UMI's own writer are read as there, and they read our exports",
        source="https://github.com/real-stanford/universal_manipulation_interface",
        command="python tests/claims/data/replay_peer.py --work runs/replay_peer --out docs/results "
        "--peer-python PEER/bin/python --peer-source CHECKOUT",
        commit=claim_run.commit(),
        target="no number or pixel differs, but one grey level in JPEG XL, which two decoders round differently",
        value={**here, **there, "umi: largest pixel error": rounding, "jpeg2k: largest pixel error (lossy)": lossy},
        interval=None,
        n=ENDS[-1],
        seeds=[0],
        control={"what": "episode_ends one row too far, opened by the peer", "value": refused, "failed": refused},
        passed=bool(exact and refused),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "replay_peer")


if __name__ == "__main__":
    main()
