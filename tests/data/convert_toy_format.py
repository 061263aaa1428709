"""A format for the tests of the engine: a JSON file that says how many episodes there are and which are bad."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import Episode
from robopolicy.errors import DataError
from robopolicy.schema import setting

HEIGHT, WIDTH, FPS = 12, 16, 20.0


@dataclass(frozen=True)
class ToyOptions:
    scale: float = setting("factor of the state", default=1.0)
    repair: tuple[str, ...] = setting("repairs", default=())


def toy_episode(index: int, rows: int, scale: float = 1.0) -> Episode:
    """A pure function of its arguments: smooth state, action one row ahead, frames of noise."""
    rng = np.random.default_rng([3, index])
    path = np.cumsum(rng.normal(size=(rows + 1, 2)), axis=0) * 0.05
    frames = rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Episode(
        {
            "state": scale * path[:-1],
            "action": scale * path[1:],
            "time_ns": np.arange(rows, dtype=np.int64) * int(1e9 / FPS),
            "image/front": frames,
        },
        language=f"toy {index}",
    )


class ToySource:
    def __init__(self, path: Path, options: ToyOptions):
        self.document = json.loads((path / "toy.json").read_text())
        self.options = options
        channels = [("a", "rad"), ("b", "rad")]
        card = generic_card("toy_set", state=channels, action=channels, control_hz=FPS)
        names = tuple(f"ep{i}" for i in range(self.document["episodes"]))
        self.info = SourceInfo(
            card,
            FPS,
            names,
            task="toy",
            cameras={"front": (HEIGHT, WIDTH)},
            expected_episodes=self.document.get("expected"),
        )

    def read(self, episode: str) -> Reading:
        index = int(episode.removeprefix("ep"))
        fault = self.document.get("faults", {}).get(episode)
        time.sleep(self.document.get("slow", {}).get(episode, self.document.get("sleep_s", 0.0)))
        if fault == "raise":
            raise DataError("page 7 is torn")
        if fault == "bug":
            raise ZeroDivisionError("a fault of the converter")
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        made = toy_episode(index, 20 + index % 7, self.options.scale)
        findings: list[Finding] = []
        if fault == "nan":
            made.streams["state"][3, 1] = np.nan
        if fault == "crooked":
            repaired = "straighten" in self.options.repair
            if not repaired:
                made.streams["state"] += 100.0
            findings.append(
                Finding(
                    "crooked", f"{episode} is crooked", "error", episode=episode, repair="straighten", repaired=repaired
                )
            )
        return Reading(made, findings)

    def close(self) -> None:
        return


def detect(path: Path) -> str | None:
    return "it has a toy.json" if (path / "toy.json").is_file() else None


FORMAT = Format("toy", ToyOptions, detect, ToySource)


def write_source(path: Path, episodes: int, **entries: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "toy.json").write_text(json.dumps({"episodes": episodes, **entries}))
    return path


def register(root: Path, name: str = "toy") -> Path:
    """A configuration folder that knows the format; to be named in ROBOPOLICY_CONFIG_PATH."""
    folder = root / "configs" / "format"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(
        f"# robopolicy data convert SRC runs/set.zarr format={name}\n"
        "target: convert_toy_format:FORMAT\ndescription: A set made up for tests.\n"
    )
    return root / "configs"
