"""How a network that serves many robots sees one of them: a mirrored pair from physical units to slots and back.

::

    forward    physical (state, action) -> form (absolute | relative | increment) -> range of THIS robot -> slots + mask
    backward   slots -> range -> form undone at the newest measured state -> physical action of this robot

The ranges are those of the robot's own data, never of a mixture: that of a mixture belongs to none of its parts. A view
is plain numbers, travels in the checkpoint and needs neither the data nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.chunk_forms import ChunkForm
from robopolicy.embodiment import Embodiment
from robopolicy.errors import EmbodimentMismatchError, ShapeError, explain, suggest
from robopolicy.frames import resize_frames
from robopolicy.normalize import NEAR_CONSTANT, Normalizer, StreamNormalizer
from robopolicy.slots import NUM_SLOTS, slot_indices, slot_mask

__all__ = ["ACTION_PARTS", "EmbodimentView", "find_view", "form_ranges", "stored_views"]

ACTION_PARTS = ("action_past", "action_ahead")
"""Streams of the normaliser of a chunk that is not absolute: rows before To, and rows from To on."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EmbodimentView:
    """One robot within a mixture.

    Attributes:
        embodiment: Its card.
        normalizer: Ranges of its own data: ``state``, ``action``, ``environment_state`` where there is one, and
            :data:`ACTION_PARTS` for a form that is not absolute.
        state_slots, action_slots: Slot of every channel, None for a channel that is left out.
        observation_horizon: To.
        form, frame: See :mod:`robopolicy.chunk_forms`.
        environment_names: Channels of its privileged state, () for none.
        environment_union: Channels of all robots of the mixture, the vector that the network reads.
        cameras: Role -> its camera, as far as it has them.
        image_size: (height, width) of every camera slot.
        task: What its data are of, for evaluation.
    """

    embodiment: Embodiment
    normalizer: Normalizer
    state_slots: tuple[str | None, ...]
    action_slots: tuple[str | None, ...]
    observation_horizon: int
    form: str = "absolute"
    frame: str = "base"
    environment_names: tuple[str, ...] = ()
    environment_union: tuple[str, ...] = ()
    cameras: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] = (96, 96)
    task: str = ""

    def __post_init__(self) -> None:
        self.normalizer.require_width("state", len(self.embodiment.state))
        for name in self._action_streams:
            self.normalizer.require_width(name, len(self.embodiment.action))
        if self.environment_names:
            self.normalizer.require_width("environment_state", len(self.environment_names))

    @property
    def _action_streams(self) -> tuple[str, ...]:
        return ("action",) if self.form == "absolute" else ACTION_PARTS

    @cached_property
    def _form(self) -> ChunkForm:
        return ChunkForm(self.embodiment, self.form, self.observation_horizon, self.frame)

    @cached_property
    def state_mask(self) -> NDArray[np.bool_]:
        """bool [NUM_SLOTS]."""
        return slot_mask(self.state_slots)

    @cached_property
    def action_mask(self) -> NDArray[np.bool_]:
        """bool [NUM_SLOTS]."""
        return slot_mask(self.action_slots)

    @cached_property
    def environment_mask(self) -> NDArray[np.bool_]:
        """bool [E of the mixture]."""
        return np.array([n in self.environment_names for n in self.environment_union], bool)

    @cached_property
    def _environment_places(self) -> list[int]:
        return [self.environment_union.index(n) for n in self.environment_names]

    def forward_state(self, state: NDArray[Any]) -> Array:
        """Physical [..., S] -> slots [..., NUM_SLOTS], in [-1, 1] over this robot's data, 0 where absent."""
        return _scatter(self.normalizer.stream("state").normalize(state), self.state_slots)

    def backward_state(self, slots: NDArray[Any]) -> Array:
        """Inverse of :meth:`forward_state`; refuses a view that leaves channels out."""
        return self.normalizer.stream("state").denormalize(self._gathered(slots, self.state_slots, "state"))

    def forward_action(self, action: NDArray[Any], newest: NDArray[Any]) -> Array:
        """Physical absolute chunk [..., Tp, A] and the newest measured state [..., S] -> slots [..., Tp, NUM_SLOTS]."""
        return _scatter(self._scaled(self._form.encode(action, newest), undo=False), self.action_slots)

    def backward_action(self, slots: NDArray[Any], newest: NDArray[Any]) -> Array:
        """Inverse of :meth:`forward_action`, in f64.

        Raises:
            ShapeError: the view leaves action channels out, so that the robot cannot be driven.
        """
        values = self._gathered(slots, self.action_slots, "action")
        return self._form.decode(self._scaled(values, undo=True), newest)

    def forward_environment(self, environment_state: NDArray[Any] | None, lead: tuple[int, ...]) -> Array:
        """Physical [*lead, own E] or None -> [*lead, E of the mixture], 0 where absent."""
        out = np.zeros((*lead, len(self.environment_union)))
        if self.environment_names and environment_state is not None:
            out[..., self._environment_places] = self.normalizer.stream("environment_state").normalize(
                environment_state
            )
        return out

    def forward_images(self, images: Mapping[str, NDArray[np.uint8]], role: str) -> NDArray[np.uint8]:
        """The picture of a role [..., H, W, 3] in the size of the mixture."""
        return resize_frames(np.asarray(images[self.cameras[role]]), self.image_size)

    def _scaled(self, chunk: Array, *, undo: bool) -> Array:
        streams = [self.normalizer.stream(n) for n in self._action_streams]
        if len(streams) == 1:
            return streams[0].denormalize(chunk) if undo else streams[0].normalize(chunk)
        cut = self.observation_horizon
        parts = zip(streams, (chunk[..., :cut, :], chunk[..., cut:, :]), strict=True)
        return np.concatenate([s.denormalize(p) if undo else s.normalize(p) for s, p in parts], axis=-2)

    def _gathered(self, slots: NDArray[Any], places: tuple[str | None, ...], what: str) -> Array:
        values = np.asarray(slots, np.float64)
        if values.shape[-1:] != (NUM_SLOTS,):
            raise ShapeError(explain("not a slot vector", given=values.shape, allowed=f"[..., {NUM_SLOTS}]"))
        if None in places:
            names = getattr(self.embodiment, what).names
            left_out = [n for n, slot in zip(names, places, strict=True) if slot is None]
            raise ShapeError(
                explain(
                    f"'{self.embodiment.name}' cannot be given back its {what}: channels were left out",
                    given=left_out,
                    mend="map them to slots in the mixture and train again",
                )
            )
        return values[..., slot_indices(places)[1]]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts; :meth:`from_dict` inverts it."""
        return {
            "embodiment": self.embodiment.to_dict(),
            "normalizer": self.normalizer.to_dict(),
            "state_slots": list(self.state_slots),
            "action_slots": list(self.action_slots),
            "observation_horizon": self.observation_horizon,
            "form": self.form,
            "frame": self.frame,
            "environment_names": list(self.environment_names),
            "environment_union": list(self.environment_union),
            "cameras": dict(self.cameras),
            "image_size": list(self.image_size),
            "task": self.task,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> EmbodimentView:
        """Inverse of :meth:`to_dict`.

        Raises:
            EmbodimentError, DataError: a damaged card or normaliser.
        """
        lists = ("state_slots", "action_slots", "environment_names", "environment_union", "image_size")
        return cls(
            **{
                **entry,
                **{k: tuple(entry[k]) for k in lists},
                "embodiment": Embodiment.from_dict(entry["embodiment"]),
                "normalizer": Normalizer.from_dict(entry["normalizer"]),
            }
        )


def _scatter(values: Array, slots: tuple[str | None, ...]) -> Array:
    channels, at = slot_indices(slots)
    out = np.zeros((*values.shape[:-1], NUM_SLOTS))
    out[..., at] = values[..., channels]
    return out


def form_ranges(
    low: Mapping[str, NDArray[Any]], high: Mapping[str, NDArray[Any]], changed: NDArray[np.bool_], own: StreamNormalizer
) -> dict[str, StreamNormalizer]:
    """The normalisers of :data:`ACTION_PARTS`.

    Args:
        low, high: Part -> f64 [A], range of the chunk in its form over this robot's windows.
        changed: bool [A]; where False the channel is absolute and keeps the range in ``own``.
        own: Normaliser of the absolute action.
    """
    found = {}
    for part in ACTION_PARTS:
        middle = (low[part] + high[part]) / 2
        # A channel that hardly moves is not stretched without bound: what the network errs there would be noise.
        scale = 1.0 / np.maximum((high[part] - low[part]) / 2, NEAR_CONSTANT)
        found[part] = StreamNormalizer(
            np.where(changed, scale, own.scale), np.where(changed, -scale * middle, own.offset)
        )
    return found


def stored_views(policy_document: Mapping[str, Any]) -> list[EmbodimentView] | None:
    """The views in the ``policy`` document of a checkpoint; None for a policy of one robot."""
    entries = policy_document.get("parameters", {}).get("views")
    return None if entries is None else [EmbodimentView.from_dict(entry) for entry in entries]


def find_view(views: Sequence[EmbodimentView], embodiment: str | Embodiment | None, *, where: str) -> int:
    """Index of the view of an embodiment.

    Args:
        views: Of a mixture.
        embodiment: Name, content hash or card; None only where there is a single view.
        where: What holds the views, for the message.

    Raises:
        EmbodimentMismatchError: not in the mixture, not named, or of an ambiguous name; those in it are named.
    """
    cards = [view.embodiment for view in views]
    names = [card.name for card in cards]
    shown = [f"{card.name} ({card.hash})" if names.count(card.name) > 1 else card.name for card in cards]
    if embodiment is None:
        if len(cards) == 1:
            return 0
        raise EmbodimentMismatchError(
            explain(
                f"{where} serves several embodiments, so one has to be named", allowed=shown, mend="embodiment=NAME"
            )
        )
    wanted = embodiment.hash if isinstance(embodiment, Embodiment) else embodiment
    found = [i for i, card in enumerate(cards) if wanted in (card.name, card.hash)]
    if len(found) == 1:
        return found[0]
    given = f"{embodiment.name} ({embodiment.hash})" if isinstance(embodiment, Embodiment) else embodiment
    what = "is not trained for this embodiment" if not found else "has several embodiments of that name: give the hash"
    raise EmbodimentMismatchError(
        explain(
            f"{where} {what}",
            given=given,
            allowed=shown,
            mend=suggest(given, names)
            or "train on a mixture that holds its data, choose one of those, or lend it the ranges of one: like=NAME",
        )
    )
