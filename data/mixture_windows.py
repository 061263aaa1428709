"""Windows of several stores, in slots: each batch mixes robots.

::

    stores --at one rate--> windows --EmbodimentView.forward--> slots + masks --> one batch of several robots

The arrays are filled in the two parts that :class:`~robopolicy.data.loader.Loader` asks for: numbers here, frames by
the tiers of every store's windows, ``image/<role>#<store>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.batch_memory import BatchMemory
from robopolicy.data.frame_cache import FrameTier, default_cache_bytes
from robopolicy.data.mixture import Mixture
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment_view import EmbodimentView
from robopolicy.errors import DataError, explain
from robopolicy.slots import NUM_SLOTS, slot_card

if TYPE_CHECKING:
    from robopolicy.types import Batch

__all__ = ["MixtureDataset"]


class MixtureDataset:
    """Windows of all stores, gathered a whole batch at a time, in slots.

    Args:
        mixture: Open stores.
        views: One per embodiment, see :meth:`Mixture.views`.
        prediction_horizon: Tp.
        roles: Camera slots.
        episodes: Episodes per store; a store with none adds no windows.
        cache_bytes: RAM for frames, divided evenly among the stores. Default: as for one store.

    Attributes:
        sizes: Windows of each store; those of store m have the indices from ``sum(sizes[:m])``.
        frame_tiers: Sources of frames, for the loader.

    Raises:
        DataError: no windows at all, or a store that lacks what its embodiment's first store has.
    """

    def __init__(
        self,
        mixture: Mixture,
        views: Sequence[EmbodimentView],
        prediction_horizon: int,
        roles: Sequence[str],
        episodes: Sequence[NDArray[np.int64]],
        *,
        cache_bytes: int | None = None,
    ):
        self.mixture, self.views, self.roles = mixture, list(views), tuple(roles)
        self.observation_horizon, self.prediction_horizon = views[0].observation_horizon, prediction_horizon
        share = (default_cache_bytes() if cache_bytes is None else cache_bytes) // len(episodes)
        self._windows: list[WindowDataset | None] = []
        for index, chosen in enumerate(episodes):
            store: Any = mixture.stores[index]
            spec = self._spec(index)
            self._windows.append(
                WindowDataset(store, spec, episodes=chosen, cache_bytes=share) if len(chosen) else None
            )
        self.sizes = [0 if w is None else len(w) for w in self._windows]
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        if not len(self):
            raise DataError(explain("no episodes to make windows of", mend="hold fewer episodes out"))
        self._memory = BatchMemory()
        self.frame_tiers: dict[str, FrameTier] = {
            f"image/{role}#{index}": windows.frame_tiers[f"image/{camera}"]
            for index, windows in enumerate(self._windows)
            for role in self.roles
            if windows is not None and (camera := mixture.camera_of(index, role)) is not None
        }
        self._card_hash = slot_card(mixture.rate_hz, self.roles, views[0].image_size).hash

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def store_of(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Store of each window [B]."""
        index = np.asarray(indices, np.int64)
        if index.ndim != 1 or (len(index) and (index.min() < 0 or index.max() >= len(self))):
            raise DataError(explain("no such window", given=indices, allowed=f"[B], 0 to {len(self) - 1}"))
        return np.searchsorted(self._offsets, index, side="right").astype(np.int64) - 1

    def places(self, indices: NDArray[np.integer]) -> list[str]:
        """Where each window [B] lies, for people: ``pick.zarr, episode 3, step 12``."""
        out = [""] * len(indices)
        for index, windows, at, local in self._grouped(indices):
            name = Path(str(self.mixture.stores[index].path)).name
            for place, text in zip(at.tolist(), windows.places(local), strict=True):
                out[place] = f"{name}, {text}"
        return out

    def language_of(self, indices: NDArray[np.integer]) -> list[str]:
        """Instruction of each window, B of them."""
        out = [""] * len(indices)
        for _, windows, at, local in self._grouped(indices):
            for place, text in zip(at.tolist(), windows.language_of(local), strict=True):
                out[place] = text
        return out

    def array_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Arrays of a batch: name (``image/<role>``, ``image_mask/<role>``) -> (shape without B, dtype)."""
        seen, ahead, real, truth = self.observation_horizon, self.prediction_horizon, np.dtype("f4"), np.dtype(bool)
        layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "state": ((seen, NUM_SLOTS), real),
            "state_mask": ((NUM_SLOTS,), truth),
            "environment_state": ((seen, len(self.views[0].environment_union)), real),
            "action": ((ahead, NUM_SLOTS), real),
            "action_mask": ((ahead, NUM_SLOTS), truth),
            "embodiment_index": ((), np.dtype("i8")),
            "time_ns": ((seen,), np.dtype("i8")),
        }
        for role in self.roles:
            layout[f"image/{role}"] = ((seen, *self.views[0].image_size, 3), np.dtype("u1"))
            layout[f"image_mask/{role}"] = ((), truth)
        return layout

    def gather(self, indices: NDArray[np.integer]) -> dict[str, Any]:
        """A batch of windows of several robots, by index 0 .. len - 1 in any order.

        Args:
            indices: int [B].

        Returns:
            ``state`` f32 [B, To, NUM_SLOTS], ``state_mask`` bool [B, NUM_SLOTS], ``environment_state`` f32 [B, To, E],
            ``image/<role>`` uint8 [B, To, h, w, 3] (0 where absent), ``image_mask/<role>`` bool [B],
            ``action`` f32 [B, Tp, NUM_SLOTS], ``action_mask`` bool [B, Tp, NUM_SLOTS] (padding and absent slots),
            ``embodiment_index`` int64 [B], ``time_ns`` int64 [B, To].

        Raises:
            DataError: an index out of range, or a damaged frame, named.
        """
        out = self._memory.empty(self.array_layout(), len(indices))
        self.gather_low(indices, out)
        for name, places in self.frame_places(indices).items():
            tier, here = self.frame_tiers[name], places >= 0
            frames = np.empty((int(here.sum()), *tier.frame), tier.dtype)
            tier.gather(places[here], frames)
            out[name.partition("#")[0]].reshape(-1, *tier.frame)[here] = frames
        return out

    def gather_low(self, indices: NDArray[np.integer], out: Mapping[str, NDArray[Any]]) -> None:
        """Write everything but frames; frames of cameras that a robot does not have become 0."""
        for index, windows, at, local in self._grouped(indices):
            wanted = {name: entry for name, entry in windows.array_layout().items() if "/" not in name}
            part = {name: np.empty((len(local), *shape), dtype) for name, (shape, dtype) in wanted.items()}
            windows.gather_low(local, part)
            self._fill(out, at, part, index)

    def frame_places(self, indices: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
        """Source -> int64 [B * To] place in its tier, -1 where the frame is of another store or absent."""
        found = {name: np.full((len(indices), self.observation_horizon), -1, np.int64) for name in self.frame_tiers}
        if found:
            for index, windows, at, local in self._grouped(indices):
                places = windows.frame_places(local)
                for role in self.roles:
                    camera = self.mixture.camera_of(index, role)
                    if camera is not None:
                        found[f"image/{role}#{index}"][at] = places[f"image/{camera}"].reshape(len(at), -1)
        return {name: places.ravel() for name, places in found.items()}

    def to_batch(self, arrays: Mapping[str, NDArray[Any]], indices: NDArray[np.integer]) -> Batch:
        """Arrays as :meth:`array_layout` names them -> tensors that share their memory."""
        import torch

        from robopolicy.types import Batch

        tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()}
        language = self.language_of(indices)
        return Batch(
            state=tensors["state"],
            action=tensors["action"],
            action_mask=tensors["action_mask"],
            embodiment=self._card_hash,
            image={role: tensors[f"image/{role}"] for role in self.roles},
            environment_state=tensors["environment_state"] if self.views[0].environment_union else None,
            language=language if any(language) else None,
            embodiment_index=tensors["embodiment_index"],
            state_mask=tensors["state_mask"],
            image_mask={role: tensors[f"image_mask/{role}"] for role in self.roles},
        )

    def _fill(self, out: Mapping[str, NDArray[Any]], at: NDArray[np.intp], part: Mapping[str, Any], store: int) -> None:
        """Write the windows of one store, physical, into rows ``at`` of the batch, in slots."""
        member = self.mixture.members[store]
        view = self.views[member]
        out["state"][at] = view.forward_state(part["state"])
        out["state_mask"][at] = view.state_mask
        out["environment_state"][at] = view.forward_environment(part.get("environment_state"), part["state"].shape[:2])
        out["action"][at] = view.forward_action(part["action"], part["state"][:, -1])
        out["action_mask"][at] = part["action_mask"][..., :1] & view.action_mask
        out["embodiment_index"][at] = member
        out["time_ns"][at] = part["time_ns"]
        for role in self.roles:
            here = self.mixture.camera_of(store, role) is not None
            out[f"image_mask/{role}"][at] = here
            if not here:
                out[f"image/{role}"][at] = 0

    def _grouped(self, indices: NDArray[np.integer]) -> list[tuple[int, WindowDataset, Any, Any]]:
        """(store, its windows, places in the batch, which of its windows), for every store that occurs."""
        index, store = np.asarray(indices, np.int64), self.store_of(indices)
        found = []
        for number, windows in enumerate(self._windows):
            at = np.flatnonzero(store == number)
            if len(at) and windows is not None:
                found.append((number, windows, at, index[at] - self._offsets[number]))
        return found

    def _spec(self, index: int) -> WindowSpec:
        store, view = self.mixture.stores[index], self.views[self.mixture.members[index]]
        if view.environment_names and store.environment_state_names != view.environment_names:
            raise DataError(
                explain(
                    f"{store.path} has another environment_state than the first store of '{view.embodiment.name}'",
                    given=store.environment_state_names,
                    allowed=view.environment_names,
                    mend="convert one of them, or leave privileged state out of the recipe",
                )
            )
        cameras = [self.mixture.camera_of(index, role) for role in self.roles]
        return WindowSpec(
            self.observation_horizon,
            self.prediction_horizon,
            state=True,
            environment_state=bool(view.environment_names),
            cameras=tuple(dict.fromkeys(c for c in cameras if c is not None)),
            image_size=view.image_size if any(cameras) else None,
        )
