"""How the trajectories of RoboMIND are read, and where they lie: decided once, the same for every episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from robopolicy.data.convert.forward_kinematics import ee_channel_names
from robopolicy.data.convert.hdf5_episode import Hdf5File
from robopolicy.data.convert.robomind_layouts import FOLDERS, Layout
from robopolicy.data.episode import StreamSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, DataError, explain

__all__ = ["Place", "Plan", "frame_stride", "simulated_fps"]


@dataclass(frozen=True)
class Place:
    """Where an episode lies.

    Attributes:
        id: Path below the source without ``data/trajectory.hdf5``.
        file: The file.
        task, split: Folder names, empty where the path does not have them.
        success: Whether it lies among the successes.
        key: As the annotation files name it.
    """

    id: str
    file: Path
    task: str
    split: str
    success: bool
    key: str

    @classmethod
    def of(cls, source: Path, file: Path) -> Place:
        """From ``.../h5_*/<task>/success_episodes/<split>/<episode>/data/trajectory.hdf5``."""
        folder = file.parent.parent if file.parent.name == "data" else file.parent
        below = folder.relative_to(source).as_posix() if source.is_dir() and folder != source else folder.name
        parts = folder.parts
        at = next((i for i in range(len(parts) - 1, -1, -1) if parts[i].endswith("_episodes")), None)
        named = next((i for i in range(len(parts) - 1, -1, -1) if parts[i] in FOLDERS), None)
        after = parts[at + 1] if at is not None and at + 1 < len(parts) else ""
        return cls(
            id=below if below != "." else folder.name,
            file=file,
            task=parts[at - 1] if at else "",
            split=after if after in ("train", "val") else "",
            success=at is None or parts[at].startswith("success"),
            key="/".join(parts[named:]) if named is not None else below,
        )


@dataclass(frozen=True)
class Plan:
    """How every episode is read; see :class:`robopolicy.data.convert.robomind.RobomindOptions`."""

    layout: Layout
    card: Embodiment
    grippers: dict[str, tuple[float, float]]
    action_root: str
    shift: int | None
    pose: str
    bgr: bool
    cameras: dict[str, tuple[int, int]]
    depths: dict[str, tuple[int, int]]
    fps: float
    stride: int | None
    repair: frozenset[str] = field(default_factory=frozenset)

    def check(self) -> None:
        """Refuse what the layout cannot give.

        Raises:
            ConfigError: told with what would be possible.
        """
        layout = self.layout
        if layout.time and self.action_root != layout.action_root:
            raise ConfigError(
                explain(f"{layout.name} is simulated and has no such robot", given=f"action={self.action_root}")
            )
        if self.pose == "recorded" and self.card.state_space == "ee_pose":
            if not layout.poses:
                raise ConfigError(explain(f"{layout.name} records no pose", mend="options.pose=kinematics"))
            if self.action_root != layout.state_root:
                raise ConfigError(
                    explain(
                        "the master records no pose",
                        given="pose=recorded, action=master",
                        mend="options.pose=kinematics",
                    )
                )

    @property
    def rows_ahead(self) -> int:
        """Rows by which the action is taken from a later one."""
        if self.shift is not None:
            return self.shift
        return 1 if self.action_root == self.layout.state_root else 0

    def colour_rule(self) -> str:
        """The rule that was applied, in words."""
        if self.bgr:
            return f"{self.layout.name}: OpenCV reads these files as BGR, so they are ordinary and their colours stay"
        return (
            f"{self.layout.name}: OpenCV reads these files as RGB, so red and blue of the decoded files are exchanged"
        )

    def action_rule(self) -> str:
        """The rule that was applied, in words."""
        ahead = f", {self.rows_ahead} row(s) ahead" if self.rows_ahead else " of the same row"
        return f"action: joints of '{self.action_root}'{ahead}; poses: {self.pose}"

    def extra_streams(self) -> dict[str, StreamSpec]:
        """Streams beside the canonical ones and the raw joints."""
        layout, streams = self.layout, dict[str, StreamSpec]()
        if layout.poses:
            names = ee_channel_names(self.card, tuple(p.arm for p in layout.poses))
            units = ("m", "m", "m", *("rotation_6d",) * 6) * len(layout.poses)
            frame = layout.poses[0].frame
            streams["source/end_effector"] = StreamSpec(
                "float32", (len(names),), names, units, "ee_pose", "base" if frame == "base" else frame, "measured"
            )
        width = len(layout.channels)
        for kind in layout.further:
            streams[kind] = StreamSpec("float32", (width,), layout.channels, (), kind, "", "measured")
        for slot, (height, wide) in self.depths.items():
            streams[f"depth/{slot}"] = StreamSpec("uint16", (height, wide, 1), kind="depth", source="measured")
        return streams


def simulated_fps(path: Path, layout: Layout, stride: int | None) -> float:
    """Frames per simulated second of one trajectory, to three digits.

    Raises:
        DataError: no frames, or a time that stands still.
    """
    with Hdf5File(path) as file:
        group = file.node("observations/rgb_images")
        frames = min((len(group[name]) for name in group), default=0)
        seconds = file.vectors(layout.time, 1)[:, 0]
    span = float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0
    if frames < 2 or span <= 0:
        mend = "state it: options.fps=30 repair=nominal_time"
        raise DataError(
            explain(f"{path}: the rate of the simulation is not to be had", given=f"{frames} frames", mend=mend)
        )
    per_frame = max(1, round(len(seconds) / frames))
    return float(f"{(len(seconds) - 1) / per_frame / span:.4g}")


def frame_stride(file: Hdf5File, layout: Layout, frames: int, joints: int) -> int:
    """Rows of joints per frame: from the length of the time array where it has more entries than there are frames.

    Raises:
        DataError: the lengths do not tell.
    """
    times = len(file.node(layout.time)) if layout.time in file else 0
    rows = times if times > 1.5 * frames else joints
    stride = max(1, round(rows / max(frames, 1)))
    if abs(rows / max(frames, 1) / stride - 1) > 0.3:
        raise DataError(
            explain(
                f"{file.path}: rows of joints per frame are not clear",
                given=f"{joints} rows of joints, {times} times, {frames} frames",
                mend="state it: options.sim_stride=4",
            )
        )
    return stride
