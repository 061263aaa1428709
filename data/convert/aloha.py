"""ALOHA / ACT HDF5: one file per episode, ``observations/qpos`` [T, 14], ``action`` [T, 14], camera images.

Facts (tonyzhaozh/act record_sim_episodes.py and utils.py, tonyzhaozh/aloha record_episodes.py): 14 numbers are left arm
(6 joints in rad, gripper), then right arm; grippers are 0 closed, 1 open. The attribute ``sim`` says whether an episode
is simulated. ``action[t]`` is read from the leader arms right after ``observation[t]``. ACT's loader pairs
``observation[t]`` with ``action[t - 1]`` for real data ("to make timesteps more aligned"); here rows are paired as they
were recorded unless ``shift`` says otherwise. Images are uint8 [T, H, W, 3] RGB, or one JPEG file per row, padded with
zeros. Of those the colour order is not recorded: some recorders gave OpenCV's encoder RGB arrays, which a decoder then
shows with red and blue changed places, others BGR as it expects.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.hdf5_damage import guarded, hdf5_errors
from robopolicy.data.convert.hdf5_episode import (
    Hdf5File,
    hdf5_files,
    is_hdf5,
    natural_order,
    nominal_time_ns,
    require_rows,
)
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.episode import EncodedFrames, Episode, StreamSpec
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DataError, MissingDependencyError, explain, suggest
from robopolicy.schema import setting

__all__ = ["FORMAT", "AlohaOptions", "AlohaSource"]

_RATE_HZ = 50.0
_IMAGES = "observations/images"
_WIDTH = 14


@dataclass(frozen=True)
class AlohaOptions:
    """Options of ``format=aloha``."""

    shift: Literal["auto", "none", "back"] = setting(
        "back: observation[t] goes with action[t - 1], as in ACT's loader for real data; auto: back unless 'sim'",
        default="none",
    )
    compressed_colour: Literal["ask", "rgb", "bgr"] = setting(
        "what a JPEG decoder gives of compressed rows; ask: refuse to guess", default="ask"
    )
    fps: float = setting("rows per second", default=_RATE_HZ, gt=0.0)
    card: str = setting("embodiment card with 14 channels in the order of the files", default="aloha")
    task: str = setting("instruction of every episode", default="")
    assume_success: bool = setting("mark every episode as successful, the files do not say", default=False)


class AlohaSource:
    """A folder of ``episode_<i>.hdf5`` files, or one of them."""

    def __init__(self, path: Path, options: AlohaOptions):
        """Read the shapes of the first episode.

        Raises:
            DataError: no such layout, or a card of another width.
        """
        self.options = options
        files = {file.stem: file for file in hdf5_files(path)}
        if not files:
            raise DataError(explain(f"no HDF5 file at {path}", allowed="episode_0.hdf5 ...", mend="check the path"))
        self._files = files
        self.info = self._describe(path)

    def close(self) -> None:
        """Nothing stays open."""

    def read(self, episode: str) -> Reading:
        """One file.

        Raises:
            DataError, NonFiniteError: damaged; file and key are named.
        """
        if episode not in self._files:
            raise DataError(explain("no such episode", given=episode, mend=suggest(episode, self._files)))
        with Hdf5File(self._files[episode]) as file:
            vectors = {"qpos": file.vectors("observations/qpos", _WIDTH), "action": file.vectors("action", _WIDTH)}
            for name in ("qvel", "effort"):
                if f"source/{name}" in self.info.extra:
                    vectors[name] = file.vectors(f"observations/{name}", _WIDTH)
            rows = len(vectors["action"])
            require_rows(str(file.path), {name: len(values) for name, values in vectors.items()}, rows)
            simulated = bool(file.attribute("/", "sim", False))
            late = 1 if self.options.shift == "back" or (self.options.shift == "auto" and not simulated) else 0
            if rows <= late:
                raise DataError(explain(f"{file.path} is too short", given=f"{rows} rows", allowed=f"{late + 1}"))
            seen, done = slice(late, rows), slice(0, rows - late)
            streams: dict[str, Any] = {
                "state": vectors["qpos"][seen],
                "action": vectors["action"][done],
                "time_ns": nominal_time_ns(rows - late, self.options.fps),
                "source/action": vectors["action"][seen],
            }
            streams |= {f"source/{n}": vectors[n][seen] for n in ("qvel", "effort") if n in vectors}
            cameras = natural_order(file.node(_IMAGES).keys()) if _IMAGES in file else []
            for camera in cameras:
                if camera in self.info.cameras:
                    streams[f"image/{camera}"] = self._frames(file, camera, rows, seen)
            absent = [camera for camera in self.info.cameras if camera not in cameras]
            if absent:
                text = f"no images of {absent} in {file.path.name}; it has {cameras}"
                return Reading(None, [Finding("missing_camera", text, "error", episode)])
        metadata = {"source": {"id": episode, "file": self._files[episode].name, "sim": simulated, "shift": late}}
        return Reading(Episode(streams, self.options.task, self.options.assume_success or None, metadata))

    def _frames(self, file: Hdf5File, camera: str, rows: int, seen: slice) -> EncodedFrames | FrameSequence:
        key = f"{_IMAGES}/{camera}"
        height, width = self.info.cameras[camera]
        if len(file.node(key).shape) == 4:
            found = file.frame_size(key)
            if found != (height, width):
                raise DataError(explain(f"{file.path}: '{key}' has another size", given=found, allowed=(height, width)))
            require_rows(str(file.path), {key: len(file.node(key))}, rows)
            return file.frames(key, seen)
        blobs = _rows(file, key)
        require_rows(str(file.path), {key: len(blobs)}, rows)
        frame, where = (height, width, 3), f"{file.path}: '{key}'"
        rgb = self.options.compressed_colour == "rgb"
        if rgb and all(blob[:2] == b"\xff\xd8" for blob in blobs):
            return EncodedFrames(frame, tuple(blobs[seen]))

        def decode() -> Iterator[NDArray[np.uint8]]:
            for row, blob in enumerate(blobs[seen], seen.start):
                pixels = _decode(blob, frame, f"{where}, row {row}")
                yield pixels if rgb else pixels[..., ::-1]

        return FrameSequence(len(blobs[seen]), frame, decode)

    def _describe(self, path: Path) -> SourceInfo:
        first = next(iter(self._files.values()))
        with Hdf5File(first) as file:
            widths = {key: file.node(key).shape for key in ("observations/qpos", "action")}
            for key, shape in widths.items():
                if len(shape) != 2 or shape[1] != _WIDTH:
                    raise DataError(
                        explain(
                            f"{first}: '{key}' is not of two arms of 6 joints and a gripper",
                            given=shape,
                            allowed="[T, 14]",
                        )
                    )
            cameras, compressed = {}, False
            for camera in natural_order(file.node(_IMAGES).keys()) if _IMAGES in file else []:
                key = f"{_IMAGES}/{camera}"
                if len(file.node(key).shape) == 4:
                    cameras[camera] = file.frame_size(key)
                else:
                    compressed = True
                    cameras[camera] = _jpeg_size(_rows(file, key)[0], f"{first}: '{key}', row 0")
            held = [name for name in ("qvel", "effort") if f"observations/{name}" in file]
            simulated = bool(file.attribute("/", "sim", False))
        if compressed and self.options.compressed_colour == "ask":
            raise DataError(
                explain(
                    f"{first} holds compressed images, whose colour order is not recorded",
                    allowed=("rgb", "bgr"),
                    mend="look at one frame: options.compressed_colour=bgr if OpenCV's encoder was given RGB arrays "
                    "(as in ALOHA's recorder), rgb if they were converted first",
                )
            )
        card = self._card()
        extra = {"source/action": StreamSpec("float32", (_WIDTH,), card.joints.names, source="commanded")}
        for name in held:
            kind = "joint_velocity" if name == "qvel" else "joint_effort"
            extra[f"source/{name}"] = StreamSpec("float32", (_WIDTH,), card.joints.names, kind=kind, source="measured")
        return SourceInfo(
            embodiment=card,
            fps=self.options.fps,
            episodes=tuple(self._files),
            task=self.options.task or path.name,
            cameras=cameras,
            extra=extra,
            findings=tuple(self._findings(simulated)),
            provenance={
                "format": "aloha",
                "shift": self.options.shift,
                "sim": simulated,
                "time": f"nominal, {self.options.fps:g} Hz",
            },
        )

    def _card(self) -> Embodiment:
        card = load_embodiment(self.options.card)
        if not card.action_space == card.state_space == "joint_position" or len(card.joints) != _WIDTH:
            raise DataError(
                explain(
                    f"card '{card.name}' cannot hold these files",
                    given=f"{card.action_space}, {len(card.joints)} joints",
                    allowed=f"joint_position, {_WIDTH} joints",
                )
            )
        return card

    def _findings(self, simulated: bool) -> list[Finding]:
        numbers = [int(stem.rpartition("_")[2]) for stem in self._files if stem.rpartition("_")[2].isdigit()]
        absent = sorted(set(range(max(numbers) + 1)) - set(numbers)) if numbers else []
        findings = []
        if absent and len(self._files) > 1:
            text = f"{len(absent)} numbers are missing between the files: {absent[:10]}"
            findings.append(Finding("missing_episode", text, "warning"))
        if not simulated and self.options.shift == "none":
            text = (
                "rows are paired as recorded; ACT's loader pairs observation[t] with action[t - 1] of real data, "
                "options.shift=back does so"
            )
            findings.append(Finding("convention", text, "note", stream="action"))
        return findings


def _rows(file: Hdf5File, key: str) -> list[bytes]:
    """Compressed rows: objects of any length, or uint8 [T, n] padded with zeros. ``compress_len``, whose cameras are in
    the recorder's order and not named, is not needed: a JPEG file ends with FF D9.

    Raises:
        DataError: neither of the two, or a row that does not end as a JPEG file does.
    """
    stored = file.read(key)
    if stored.dtype.kind != "O" and (stored.ndim != 2 or stored.dtype != np.uint8):
        raise DataError(
            explain(
                f"{file.path}: '{key}' holds no images",
                given=(stored.shape, str(stored.dtype)),
                allowed="uint8 [T, H, W, 3], or JPEG rows",
            )
        )
    blobs = [np.asarray(row, np.uint8).tobytes().rstrip(b"\0") for row in stored]
    for row, blob in enumerate(blobs):
        if blob[:2] == b"\xff\xd8" and blob[-2:] != b"\xff\xd9":
            raise DataError(
                explain(f"{file.path}: '{key}', row {row}: a JPEG file that is cut", given=f"{len(blob)} bytes")
            )
    return blobs


def _jpeg_size(blob: bytes, where: str) -> tuple[int, int]:
    try:
        width, height = Image.open(io.BytesIO(blob)).size
    except (OSError, SyntaxError) as error:
        raise DataError(explain(f"{where}: no image: {error}", given=f"{len(blob)} bytes")) from error
    return height, width


def _decode(blob: bytes, frame: tuple[int, int, int], where: str) -> NDArray[np.uint8]:
    try:
        pixels = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(explain(f"{where}: an image cannot be decoded: {error}", given=f"{len(blob)} bytes")) from error
    if pixels.shape != frame:
        raise DataError(explain(f"{where}: an image of another size", given=pixels.shape, allowed=frame))
    return pixels


def _detect(path: Path) -> str | None:
    files = [file for file in hdf5_files(path) if is_hdf5(file)][:1]
    if not files:
        return None
    try:
        with hdf5_errors(files[0]), Hdf5File(files[0]) as file:
            return f"action and observations/qpos in {files[0].name}" if _laid_out(file) else None
    except (DataError, MissingDependencyError):
        return None


def _laid_out(file: Hdf5File) -> bool:
    return "action" in file and hasattr(file.root["action"], "dtype") and "observations/qpos" in file


FORMAT = Format("aloha", AlohaOptions, _detect, guarded(AlohaSource))
