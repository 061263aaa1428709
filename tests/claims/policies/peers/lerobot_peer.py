"""LeRobot's DiffusionPolicy from the outside: train it on a store, evaluate it on our episodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from process_policy import ProcessPolicy, export

from robopolicy.assess import evaluate
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.report import read_report

__all__ = ["evaluate_peer", "train_peer"]

DRIVER = Path(__file__).resolve().parent / "lerobot_diffusion.py"


def train_peer(python: str, store: Path, run: Path, *words: object) -> dict:
    """Train on the rows of ``store`` unless it is done. Returns the record: steps, wall_s, cpu_s, settings."""
    record = run / "record.json"
    if not record.is_file():
        data = export(store, run.with_name(f"{run.name}.npz"))
        log = run.with_name(f"{run.name}.log")
        with log.open("ab") as stream:
            command = [python, str(DRIVER), "train", str(data), str(run), *map(str, words)]
            code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
        if code:
            print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
            raise SystemExit(f"the peer's training ended with {code}; log: {log}")
    return json.loads(record.read_text())


def evaluate_peer(python: str, store: Path, run: Path, out: Path, episodes: int, split: str = "test") -> dict:
    """The report of a run or of one of its snapshots on the task of the store; made once."""
    if not (out / "report.html").is_file():
        with EpisodeStore.open(store) as opened:
            task, card, width = opened.task, opened.embodiment, len(opened.environment_state_names)
        with ProcessPolicy([python, str(DRIVER), "serve", str(run)], card, width) as policy:
            evaluate(policy, task, episodes=range(episodes), split=split, out=out, overwrite=True)
    return read_report(out)
