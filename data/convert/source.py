"""What a converter is: something that recognises a path, says what is in it, and reads one episode at a time.

::

    configs/format/<name>.yaml    target: robopolicy.data.convert.<name>:FORMAT    (and export: module:function, if any)
    FORMAT.detect(path) -> reason it is ours, or None            cheap; opens no more than a header
    FORMAT.open(path, options) -> Source                         cards, cameras, streams, ids of all episodes
    Source.read(id) -> Reading                                   one episode in the store's terms, and what was found
    engine.convert                                               order, processes, resume, audit, commit

**A store is always canonical.** Whatever the source's conventions, ``state`` and ``action`` follow the embodiment card:
absolute targets, metres and radians, 6-D rotations, gripper 0 closed and 1 open, RGB, ``action[t]`` decided from
``observation[t]``. A converter does this from facts (the format's documentation, the source's own metadata) or from
options that the user gives, never by guessing from values; where it cannot know, it uses a card of its own with
``custom`` channels named as in the source, says so in a finding, and leaves the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment

__all__ = ["SEVERITIES", "Finding", "Format", "Reading", "Source", "SourceInfo"]

SEVERITIES = ("note", "warning", "error")
"""``note`` goes to the audit; ``warning`` is also shown; ``error`` refuses the episode unless its repair was chosen."""


@dataclass(frozen=True)
class Finding:
    """Something about the source that a user should know.

    Attributes:
        kind: Short stable name: ``missing_episode``, ``stuck_channel``, ``colour_order``, ``rate_drift``, ``units``,
            ``clipped``, ``missing_camera``, ``undecodable_frame``, ``length``, ``convention`` ...
        message: What was found, with the numbers.
        severity: One of :data:`SEVERITIES`.
        episode: Source id, empty for the source as a whole.
        stream: Stream of the store or key of the source, if one.
        repair: Name of the repair that would mend it, empty for none.
        repaired: Whether that repair was chosen and done.
    """

    kind: str
    message: str
    severity: str = "warning"
    episode: str = ""
    stream: str = ""
    repair: str = ""
    repaired: bool = False


@dataclass(frozen=True)
class SourceInfo:
    """All that is needed to create the store, known without reading an episode.

    Attributes:
        embodiment: Card whose ``state`` and ``action`` the episodes will have.
        fps: Rows per second after any resampling.
        episodes: Ids of the episodes that are present, in order; stable over runs, unique.
        task: Name of the task or data set.
        cameras: Slot -> (height, width).
        joints: Whether ``joint_position`` and ``joint_command`` are delivered.
        environment_state: Channel names of the privileged state.
        extra: Further streams, by their name in the store.
        expected_episodes: How many the source says it has, when it says so.
        findings: About the source as a whole.
        provenance: Where it is from: origin, licence, version, conventions that were applied.
    """

    embodiment: Embodiment
    fps: float
    episodes: tuple[str, ...]
    task: str = ""
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    joints: bool = False
    environment_state: tuple[str, ...] = ()
    extra: Mapping[str, StreamSpec] = field(default_factory=dict)
    expected_episodes: int | None = None
    findings: tuple[Finding, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Reading:
    """One episode as read. ``episode`` is None when it cannot be used; a finding then says why."""

    episode: Episode | None
    findings: list[Finding] = field(default_factory=list)


class Source(Protocol):
    """An opened source. Made anew in every worker process; ``read`` is a pure function of the id."""

    @property
    def info(self) -> SourceInfo:
        """What the source holds."""
        ...

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: the source is damaged there; the message names file and place.
        """
        ...

    def close(self) -> None:
        """Give up files and decoders."""
        ...


@dataclass(frozen=True)
class Format:
    """A registered format.

    Attributes:
        name: As in ``configs/format``.
        options: Frozen dataclass of :func:`robopolicy.schema.setting` fields, all with defaults; among them those
            repairs that only this format knows.
        detect: Path -> why it is this format, or None.
        open: (path, options) -> source. Raises DataError with what is wrong and how to mend it.
    """

    name: str
    options: type
    detect: Callable[[Path], str | None]
    open: Callable[[Path, Any], Source]
