"""RLDS data sets (Open X-Embodiment, DROID, Bridge ...): TFRecord files with one episode per record.

Read without tensorflow, one record in memory at a time. JPEG files pass through as they are. The id of an episode is
``split:shard:record``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.hdf5_episode import nominal_time_ns
from robopolicy.data.convert.pose_cards import pose_card
from robopolicy.data.convert.rlds_conventions import Convention, canonical, find_convention
from robopolicy.data.convert.rlds_files import FEATURES, RldsFiles, Shard, find_data_set
from robopolicy.data.convert.rlds_frames import colour_frames, depth_frames, size_of, stuck_camera
from robopolicy.data.convert.rlds_plan import FLAGS, STEPS, make_plan
from robopolicy.data.convert.rlds_schema import Leaf, read_features, step_values
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.tfrecord import Feature, parse_example
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import EncodedFrames, Episode, StreamSpec
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DataError, NonFiniteError, UnknownNameError, explain, suggest
from robopolicy.schema import setting

__all__ = ["FORMAT", "RldsOptions", "RldsSource"]

_ASSUMED_HZ = 10.0
DROP_FIRST = "drop_first"


@dataclass(frozen=True)
class RldsOptions:
    """Options of ``format=rlds``."""

    convention: str = setting("what the numbers mean: auto | none | a name of the table | a YAML file", default="auto")
    splits: tuple[str, ...] = setting("splits to read, all when empty", default=())
    fps: float = setting("rows per second; 0: that of the convention, else 10", default=0.0, ge=0.0)
    assume_success: bool = setting("mark every episode as successful, where the source does not say", default=False)
    repair: tuple[str, ...] = setting("repairs to do; drop_first: leave out rows 0 that have no action", default=())


class RldsSource:
    """One data set, opened."""

    def __init__(self, path: Path, options: RldsOptions):
        """Read the schema and the list of files, and the header of one image where the schema gives no size.

        Raises:
            DataError: no data set, a damaged description, or a convention that does not fit.
        """
        folder = find_data_set(path)
        if folder is None:
            raise DataError(
                explain(
                    f"no RLDS data set at {path}", allowed=f"a folder with {FEATURES}", mend="shapes are only there"
                )
            )
        self.options = options
        self.leaves = read_features(folder / FEATURES)
        self.files = RldsFiles(folder, options.splits)
        self.rule_name, self.rule = find_convention(options.convention, self.files.name)
        self.plan = make_plan(self.leaves, self.rule)
        self.fps = options.fps or (self.rule.fps if self.rule else _ASSUMED_HZ)
        self._shards = {(s.split, s.index): s for s in self.files.shards}
        self._sizes = self._frame_sizes()
        self.info = self._describe()

    def close(self) -> None:
        """Nothing stays open."""

    def read(self, episode: str) -> Reading:
        """One record.

        Raises:
            DataError: no such id, or a damaged record; file and record are named.
        """
        shard, number = self._find(episode)
        where = f"{shard.path}: record {number}"
        findings: list[Finding] = []
        if number == 0 and shard.records is not None and len(self.files.index(shard)) > shard.records:
            text = f"{shard.path.name} holds {len(self.files.index(shard))} records, {shard.records} are listed"
            findings.append(Finding("length", text, "warning", episode))
        features = parse_example(self.files.record(shard, number), where)
        rows = self._rows(features, where)
        cache: dict[str, NDArray[Any]] = {}

        def values(key: str) -> NDArray[Any]:
            if key not in cache:
                found = step_values(self.leaves[STEPS + key], features, rows, where)
                assert isinstance(found, np.ndarray)
                cache[key] = _finite(found, key, where)
            return cache[key]

        streams: dict[str, Any] = self._vectors(values)
        for key, (name, spec) in self.plan.extra.items():
            streams[name] = values(key).reshape(rows, *spec.shape).astype(spec.dtype)
        for key, slot in self.plan.cameras.items():
            blobs = step_values(self.leaves[STEPS + key], features, rows, where)
            assert blobs is not None
            streams[f"image/{slot}"] = colour_frames(blobs, (*self._sizes[key], 3), f"{where}: '{key}'")
            findings += stuck_camera(streams[f"image/{slot}"], slot, episode)
        for key, name in self.plan.depth.items():
            blobs = step_values(self.leaves[STEPS + key], features, rows, where)
            assert blobs is not None
            streams[name] = depth_frames(blobs, self.leaves[STEPS + key].shape, f"{where}: '{key}'")
        streams["time_ns"] = nominal_time_ns(rows, self.fps)
        labels, flags = self._labels(features, rows, where), self._flags(features, rows, where)
        findings += self._first_row(values, episode) + _ending(flags, episode)
        if any(f.repaired and f.repair == DROP_FIRST for f in findings):
            streams = {name: _without_first(array) for name, array in streams.items()}
        reward = values("reward") if "reward" in self.plan.extra else np.zeros(1)
        metadata = {"source": {"id": episode, "terminal": bool(flags.get("is_terminal", [False])[-1]), **labels[1]}}
        # rewards of 0 throughout say nothing: many data sets carry the key without meaning it
        success = True if self.options.assume_success or np.ravel(reward)[-1] > 0 else None
        return Reading(Episode(streams, labels[0], success, metadata), findings)

    def _find(self, episode: str) -> tuple[Shard, int]:
        try:
            split, index, number = episode.split(":")
            return self._shards[split, int(index)], int(number)
        except (ValueError, KeyError):
            mend = suggest(episode, self.info.episodes) or "ids are split:shard:record"
            raise DataError(explain(f"no such episode in {self.files.folder}", given=episode, mend=mend)) from None

    def _rows(self, features: Mapping[str, Feature], where: str) -> int:
        """Steps of the episode, from the first feature that says so."""
        for path, leaf in self.leaves.items():
            if leaf.rank == 1 and path.startswith(STEPS) and path in features and min(leaf.shape, default=1) > 0:
                packed = leaf.kind == "image" or leaf.encoding in ("bytes", "zlib")
                size = 1 if packed else int(np.prod(leaf.shape, dtype=np.int64))
                rows, left = divmod(len(features[path]), size)
                if left or not rows:
                    given = f"{len(features[path])} numbers"
                    raise DataError(
                        explain(f"{where}: '{path}' is no whole number of steps", given=given, allowed=size)
                    )
                return rows
        raise DataError(explain(f"{where} has no steps", given=sorted(features), mend="check features.json"))

    def _vectors(self, values: Callable[[str], NDArray[Any]]) -> dict[str, Any]:
        if self.rule is not None:
            state, action = canonical(self.rule, values)
            card = self.info.embodiment
            return {"state": card.state.pack(state), "action": card.action.pack(action)}
        out: dict[str, Any] = {}
        for name, keys in (("state", self.plan.state), ("action", self.plan.action)):
            parts = [values(key).astype(np.float64) for key in keys]
            out[name] = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        return out

    def _labels(self, features: Mapping[str, Feature], rows: int, where: str) -> tuple[str, dict[str, Any]]:
        """The instruction, and what the record says of the episode."""
        texts = {}
        for key in self.plan.texts:
            found = step_values(self.leaves[STEPS + key], features, rows, where)
            if isinstance(found, list):
                texts[key] = list(dict.fromkeys(str(text) for text in found))
        wanted = self.rule.language if self.rule else ()
        candidates = [*wanted, *(k for k in texts if k.rpartition("/")[2] == "language_instruction"), *texts]
        language = next((texts[k][0] for k in candidates if texts.get(k, [""])[0]), "")
        kept = {key: found if len(found) > 1 else found[0] for key, found in texts.items() if found != [language]}
        about = {}
        for path, leaf in self.leaves.items():
            if not leaf.rank and leaf.shape == () and path in features and len(features[path]) == 1:
                value = features[path][0]
                about[path.removeprefix("episode_metadata/")] = (
                    value.decode("utf-8", "replace") if isinstance(value, bytes) else _plain(value)
                )
        return language, {name: entry for name, entry in (("text", kept), ("episode_metadata", about)) if entry}

    def _flags(self, features: Mapping[str, Feature], rows: int, where: str) -> dict[str, NDArray[Any]]:
        found = {n: self.leaves[STEPS + n] for n in FLAGS if STEPS + n in self.leaves}
        return {n: np.asarray(step_values(leaf, features, rows, where)) for n, leaf in found.items()}

    def _first_row(self, values: Callable[[str], NDArray[Any]], episode: str) -> list[Finding]:
        if self.rule is None or not self.rule.dummy_first_row:
            return []
        key = self.rule.action.position.partition("[")[0]
        moved = np.asarray(values(key), np.float64).reshape(len(values(key)), -1)[0, :6]
        if np.any(moved != 0) or len(values(key)) < 2:
            return []
        text = "row 0 has no action: zeros, so its target is the pose it has"
        return [Finding("dummy_action", text, "note", episode, "action", DROP_FIRST, DROP_FIRST in self.options.repair)]

    def _frame_sizes(self) -> dict[str, tuple[int, int]]:
        sizes = {key: self.leaves[STEPS + key].shape[:2] for key in self.plan.cameras}
        if any(min(size) < 0 for size in sizes.values()):
            shard = next(s for s in self.files.shards if s.present)
            where = f"{shard.path}: record 0"
            features = parse_example(self.files.record(shard, 0), where)
            for key, size in sizes.items():
                if min(size) < 0:
                    sizes[key] = size_of(bytes(features[STEPS + key][0]), where)
        return {key: (int(size[0]), int(size[1])) for key, size in sizes.items()}

    def _card(self) -> tuple[Embodiment, list[Finding]]:
        if self.rule is not None:
            text = f"convention '{self.rule_name}': {self.rule.description or 'given by the user'}"
            return _card_of(self.rule, self.files.name, self.fps), [Finding("convention", text, "note")]
        state, action = (
            [(channel, "unknown") for key in keys for channel in self._channels(key)]
            for keys in (self.plan.state, self.plan.action)
        )
        about = "RLDS, meaning not known"
        card = generic_card(self.files.name, state=state, action=action, control_hz=self.fps, description=about)
        text = (
            f"what the numbers of '{self.files.name}' mean is not known: they are kept as they are, under the names of "
            "the schema, and cannot be mixed with other robots or driven; options.convention=FILE.yaml states it"
        )
        return card, [Finding("convention", text, "warning", stream="action")]

    def _channels(self, key: str) -> tuple[str, ...]:
        leaf: Leaf = self.leaves[STEPS + key]
        width = int(np.prod(leaf.shape, dtype=np.int64))
        return (key,) if not leaf.shape else tuple(f"{key}.{i}" for i in range(width))

    def _describe(self) -> SourceInfo:
        card, findings = self._card()
        findings += self.plan.findings
        ids, absent = [], []
        for shard in self.files.shards:
            if shard.present:
                ids += [f"{shard.split}:{shard.index}:{n}" for n in range(self.files.count(shard))]
            else:
                absent.append(shard)
        if absent:
            lost = [shard.records for shard in absent]
            many = "an unknown number of" if None in lost else str(sum(n or 0 for n in lost))
            names = ", ".join(s.path.name for s in absent[:5]) + (" ..." if len(absent) > 5 else "")
            text = f"{len(absent)} of {len(self.files.shards)} files are not here ({many} episodes): {names}"
            findings.append(Finding("missing_episode", text, "warning"))
        if not self.options.fps and self.rule is None:
            text = f"the source does not say its rate; {_ASSUMED_HZ:g} Hz is assumed, options.fps states it"
            findings.append(Finding("rate", text, "warning", stream="time_ns"))
        counts = [shard.records for shard in self.files.shards]
        height_width = {slot: self._sizes[key] for key, slot in self.plan.cameras.items()}
        extra = dict(self.plan.extra.values())
        for key, name in self.plan.depth.items():
            extra[name] = StreamSpec("uint16", self.leaves[STEPS + key].shape, kind="depth")
        return SourceInfo(
            embodiment=card,
            fps=self.fps,
            episodes=tuple(ids),
            task=self.files.name,
            cameras=height_width,
            extra=extra,
            expected_episodes=None if None in counts else sum(n or 0 for n in counts),
            findings=tuple(findings),
            provenance={
                "format": "rlds",
                "data_set": self.files.name,
                "version": self.files.version,
                "convention": self.rule_name,
                "conventions": self.rule.description if self.rule else "",
                "time": f"nominal, {self.fps:g} Hz",
            },
        )


def _card_of(rule: Convention, data_set: str, fps: float) -> Embodiment:
    """The card that a convention names, or an arm that is known by its pose only."""
    if rule.card:
        try:
            card = load_embodiment(rule.card)
        except UnknownNameError:
            card = None
        if card is not None and card.action_space == card.state_space == "ee_pose" and len(card.arms) == 1:
            return card
    return pose_card(rule.robot or data_set, control_hz=fps, gripper_width_m=rule.gripper_width_m)


def _ending(flags: Mapping[str, NDArray[Any]], episode: str) -> list[Finding]:
    last = flags.get("is_last")
    if last is None or bool(last[-1]):
        return []
    return [Finding("cut_episode", "is_last is set at no step: the episode was cut before its end", "note", episode)]


def _finite(values: NDArray[Any], key: str, where: str) -> NDArray[Any]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise NonFiniteError(explain(f"{where}: '{key}' is not finite at row {row}", mend="leave the episode out"))
    return values


def _without_first(values: Any) -> Any:
    if isinstance(values, EncodedFrames):
        return EncodedFrames(values.frame, values.blobs[1:])
    return np.asarray(values)[1:]


def _plain(value: Any) -> float | int | str | None:
    number = value.item() if isinstance(value, np.generic) else value
    return number if not isinstance(number, float) or np.isfinite(number) else None


def _detect(path: Path) -> str | None:
    folder = find_data_set(path)
    if folder is None or not any(".tfrecord" in p.name for p in folder.iterdir()):
        return None
    return f"{FEATURES} and TFRecord files in {folder}"


FORMAT = Format("rlds", RldsOptions, _detect, RldsSource)
