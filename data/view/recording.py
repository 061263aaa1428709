"""Episodes as a recording for rerun (https://rerun.io), when its SDK is installed.

Entities: ``<episode>/<camera>`` for frames (JPEG files as they are stored), ``<episode>/<stream>/<channel>`` for
numbers, ``<episode>/language``. Timelines: ``time`` in seconds from the first row of the episode, and ``row``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.contents import StoreContents
from robopolicy.data.episode import EncodedFrames
from robopolicy.data.tools.describe import channel_units
from robopolicy.data.tools.reading import EpisodeReader
from robopolicy.data.tools.records import check_indices
from robopolicy.data.view.document import MAX_CHANNELS, chosen_episodes
from robopolicy.errors import MissingDependencyError, explain

__all__ = ["write_recording"]


def write_recording(
    store: StoreContents,
    out: str | Path,
    episodes: Sequence[int] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write episodes to an ``.rrd`` file.

    Args:
        store: Open for reading.
        out: File to write.
        episodes: Live indices; a dozen evenly spaced ones when None.
        progress: Called after every episode.

    Raises:
        MissingDependencyError: rerun is not installed.
        CommandError: no such episode.
        DataError: a damaged file.
    """
    try:
        import rerun
    except ImportError as error:
        mend = "pip install 'rerun-sdk>=0.23', or to=html, which needs nothing"
        raise MissingDependencyError(explain("recordings need rerun", mend=mend)) from error
    chosen = chosen_episodes(store) if episodes is None else check_indices(store, list(episodes))
    recording = rerun.RecordingStream("robopolicy")
    recording.save(str(out))
    reader = EpisodeReader(store)
    for number, index in enumerate(chosen):
        _log(rerun, recording, reader, index)
        if progress is not None:
            progress(number + 1, len(chosen))
    recording.flush()
    return Path(out)


def _log(rerun: Any, recording: Any, reader: EpisodeReader, index: int) -> None:
    store, episode, root = reader.store, reader.read(index), f"episode_{index}"
    times = np.asarray(episode.streams["time_ns"])
    recording.log(f"{root}/language", rerun.TextDocument(episode.language or "(no instruction)"), static=True)
    numbers = {}
    for name, values in episode.streams.items():
        spec = reader.streams[name]
        if spec.dtype == "float32" and spec.shape[0] <= MAX_CHANNELS:
            numbers[name] = (np.asarray(values), [n for n, _ in channel_units(store, name, spec)])
    for row in range(len(times)):
        recording.set_time("row", sequence=row)
        recording.set_time("time", duration=float(times[row] - times[0]) * 1e-9)
        for name, (rows, channels) in numbers.items():
            for channel, value in zip(channels, rows[row].tolist(), strict=True):
                recording.log(f"{root}/{name}/{channel}", rerun.Scalars(value))
        for name, spec in reader.streams.items():
            if spec.image:
                picture = _picture(rerun, episode.streams[name], row)
                recording.log(f"{root}/{name.removeprefix('image/')}", picture)


def _picture(rerun: Any, frames: Any, row: int) -> Any:
    if isinstance(frames, EncodedFrames):
        return rerun.EncodedImage(contents=frames.blobs[row], media_type="image/jpeg")
    if frames.dtype == np.uint16:
        return rerun.DepthImage(frames[row, ..., 0], meter=1000.0)
    return rerun.Image(frames[row]) if frames.shape[-1] == 3 else rerun.Image(frames[row, ..., 0])
