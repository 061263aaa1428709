"""Stores to measure on: frames that look rendered, and stores of very many short episodes.

A frame is a smooth texture, a two-link arm that moves, its shadow, and sensor noise of standard deviation 2.2, so that
JPEG and lossless codecs meet about what cameras give them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Camera, load_embodiment
from robopolicy.seeding import generator

__all__ = ["CAMERAS", "camera_frames", "many_episodes", "synthetic_store"]

CAMERAS = ("one", "two")
NOISE = 2.2
CHUNK_ROWS = 20_000
"""Rows per commit of a store of many episodes."""


def camera_frames(rng: np.random.Generator, count: int, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [count, height, width, 3] of one moving scene."""
    base = np.zeros((height, width, 3), np.float32)
    for octave in (3, 6, 12, 24):
        small = rng.integers(0, 256, (octave, octave, 3), dtype=np.uint8)
        texture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        base += np.asarray(texture, np.float32) * (1.5 / octave)
    base *= 200.0 / max(float(base.max()), 1.0)
    phase, speed = rng.uniform(0, 6.28, 2), rng.uniform(0.02, 0.06, 2)
    out = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        scene = Image.fromarray(base.astype(np.uint8))
        shadow = Image.new("L", (width, height), 0)
        _arm(ImageDraw.Draw(shadow), phase + i * speed, height, width, 3, 110)
        dark = Image.new("RGB", (width, height), (10, 10, 12))
        scene.paste(dark, mask=shadow.filter(ImageFilter.GaussianBlur(2)))
        _arm(ImageDraw.Draw(scene), phase + i * speed, height, width, 0, (205, 120, 60))
        noisy = np.asarray(scene, np.float32) + rng.normal(0, NOISE, (height, width, 3)).astype(np.float32)
        out[i] = np.clip(np.rint(noisy), 0, 255)
    return out


def _arm(draw: ImageDraw.ImageDraw, angle: NDArray[np.float64], height: int, width: int, shift: int, fill: Any) -> None:
    start = np.array([width / 2, height * 0.9])
    reach = min(height, width) * 0.35
    elbow = start + reach * np.array([np.sin(angle[0]) * 0.8, -0.9])
    hand = elbow + reach * np.array([np.sin(angle[0] + angle[1]), -np.cos(angle[1]) * 0.6])
    points = [(float(x) + shift, float(y) + shift) for x, y in (start, elbow, hand)]
    draw.line(points, fill=fill, width=max(2, height // 16), joint="curve")


def synthetic_store(path: Path, codec: str, episodes: int, steps: int, height: int, width: int) -> EpisodeStore:
    """A store of random motion with two cameras, the same content for every codec but for JPEG's loss."""
    card = load_embodiment("panda")
    upright = (1.0, 0.0, 0.0, 0.0)
    cameras = [Camera(n, width, height, 60.0, "world", (0.0, 0.0, 0.0), upright) for n in CAMERAS]
    with EpisodeStore.create(path, card, task="bench", cameras=cameras, codec=codec) as store:
        period_ns = round(1e9 / store.fps)
        for i in range(episodes):
            rng = generator("data bench", i)
            streams: dict[str, Any] = {}
            for name, spec in store.streams.items():
                if spec.image:
                    streams[name] = camera_frames(rng, steps, height, width)
                elif name == "time_ns":
                    streams[name] = np.arange(steps) * period_ns
                else:
                    streams[name] = rng.normal(size=(steps, *spec.shape)).astype(np.float32)
            store.append(Episode(streams, language="bench", success=True))
    return EpisodeStore.open(path)


def many_episodes(path: Path, episodes: int, rows: int, size: int) -> EpisodeStore:
    """A raw store of ``rows`` rows in all with one square camera, cut into that many episodes of equal length.

    The content of the rows does not matter here, only their number; 256 frames repeat.
    """
    card = load_embodiment("panda")
    camera = Camera("one", size, size, 60.0, "world", (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    length = rows // episodes
    with EpisodeStore.create(path, card, task="bench", cameras=[camera]) as store:
        some = camera_frames(generator("data bench", "many"), 256, size, size)
        for first in range(0, episodes, max(1, CHUNK_ROWS // length)):
            last = min(first + max(1, CHUNK_ROWS // length), episodes)
            store.append_many(_short(store, i, length, some) for i in range(first, last))
    return EpisodeStore.open(path)


def _short(store: EpisodeStore, number: int, length: int, some: NDArray[np.uint8]) -> Episode:
    rng = generator("data bench", "short", number)
    streams: dict[str, Any] = {}
    for name, spec in store.streams.items():
        if spec.image:
            streams[name] = some[np.arange(number * length, (number + 1) * length) % len(some)]
        elif name == "time_ns":
            streams[name] = np.arange(length) * round(1e9 / store.fps)
        else:
            streams[name] = rng.normal(size=(length, *spec.shape)).astype(np.float32)
    return Episode(streams, language="bench", success=True)
