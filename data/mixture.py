"""Several stores as one source of training data: opened at one rate, with a view per embodiment and shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.borrowed_view import borrow_view
from robopolicy.data.files import lasting_path
from robopolicy.data.mixture_config import MemberConfig, MixtureConfig, read_mixture
from robopolicy.data.mixture_order import shares
from robopolicy.data.resample import ResampledStore, at_rate
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.view_fit import fit_normalizer
from robopolicy.embodiment import Embodiment
from robopolicy.embodiment_view import EmbodimentView
from robopolicy.errors import ConfigError, DataError, explain
from robopolicy.schema import to_dict
from robopolicy.slots import channel_slots

__all__ = ["Mixture"]


class Mixture:
    """The open stores of a mixture, at one rate.

    Args:
        config: See :class:`MixtureConfig`.

    Attributes:
        stores: In the order of the configuration.
        members: Store -> index of its embodiment among :attr:`embodiments`.
        embodiments: Distinct cards, in order of appearance.

    Raises:
        StoreNotFoundError, DataError: a store is absent, empty or damaged.
        ConfigError: stores of several rates without ``rate_hz``.
    """

    def __init__(self, config: MixtureConfig):
        self.config = config
        opened = [EpisodeStore.open(Path(member.path)) for member in config.stores]
        for store in opened:
            if not store.num_episodes:
                raise DataError(explain(f"{store.path} has no episodes", mend="collect some first, or leave it out"))
        rates = {str(store.path): store.fps for store in opened}
        if config.rate_hz is None and len(set(rates.values())) > 1:
            raise ConfigError(
                explain("the stores have several rates", given=rates, mend="give the mixture a common rate_hz")
            )
        self.rate_hz = float(config.rate_hz or opened[0].fps)
        self.stores: list[EpisodeStore | ResampledStore] = [at_rate(store, self.rate_hz) for store in opened]
        self.embodiments: list[Embodiment] = []
        self.members: list[int] = []
        for member in self.stores:
            hashes = [card.hash for card in self.embodiments]
            if member.embodiment.hash not in hashes:
                self.embodiments.append(member.embodiment)
                hashes.append(member.embodiment.hash)
            self.members.append(hashes.index(member.embodiment.hash))

    @classmethod
    def open(cls, source: str | Path | Mapping[str, Any] | MixtureConfig) -> Mixture:
        """From a YAML, the same as a mapping, or a configuration."""
        return cls(source if isinstance(source, MixtureConfig) else read_mixture(source))

    @property
    def num_episodes(self) -> int:
        """Of all stores."""
        return sum(store.num_episodes for store in self.stores)

    @property
    def num_steps(self) -> int:
        """Rows of all stores, at the common rate."""
        return sum(store.num_steps for store in self.stores)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the configuration without paths, and the content of every store."""
        described = to_dict(self.config)
        for entry, store in zip(described["stores"], self.stores, strict=True):
            entry["path"] = store.content_hash
            if entry["like"] is None:  # so that the hash of a mixture without it stays what it was
                del entry["like"]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Channels of the privileged state of all stores, each once, in order of appearance."""
        return tuple(dict.fromkeys(n for store in self.stores for n in store.environment_state_names))

    def split(self, fraction: float, seed: int) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Episodes for training and for validation, per store."""
        parts = [train_val_episodes(store.num_episodes, fraction, seed) for store in self.stores]
        return [training for training, _ in parts], [held_out for _, held_out in parts]

    def shares(self, sizes: Sequence[int]) -> NDArray[np.float64]:
        """Share of each store in a batch, f64 [stores]; ``sizes`` are its training windows."""
        weights = [member.weight for member in self.config.stores]
        given = [w for w in weights if w is not None]
        return shares(sizes, given or None, self.config.temperature)

    def views(
        self,
        observation_horizon: int,
        prediction_horizon: int,
        *,
        form: str,
        environment_state: bool,
        roles: Sequence[str],
        episodes: Sequence[NDArray[np.int64]],
    ) -> list[EmbodimentView]:
        """One view per embodiment, its ranges from its own stores, or those of the robot that ``like`` names.

        Args:
            observation_horizon, prediction_horizon: To, Tp.
            form: Used unless the mixture's configuration says another.
            environment_state: Whether privileged state is read.
            roles: Camera slots.
            episodes: Training episodes per store.

        Raises:
            EmbodimentError: channels without a slot.
            EmbodimentMismatchError: ranges that cannot be lent, see :mod:`robopolicy.borrowed_view`.
            ConfigError: a role that no store has, a form that does not fit, or a lender of other privileged state.
        """
        self._check_roles(roles)
        form = self.config.form or form
        union = self.environment_names if environment_state else ()
        found = []
        for index, card in enumerate(self.embodiments):
            own = [i for i, member in enumerate(self.members) if member == index]
            settings = self._settings(own)
            names = self.stores[own[0]].environment_state_names if environment_state else ()
            found.append(
                EmbodimentView(
                    embodiment=card,
                    normalizer=fit_normalizer(
                        [(self.stores[i], episodes[i]) for i in own],
                        form,
                        self.config.frame,
                        observation_horizon,
                        prediction_horizon,
                    ),
                    state_slots=channel_slots(card, "state", **settings),
                    action_slots=channel_slots(card, "action", **settings),
                    observation_horizon=observation_horizon,
                    form=form,
                    frame=self.config.frame,
                    environment_names=names,
                    environment_union=union,
                    cameras=self._cameras(own, roles),
                    image_size=self.image_size(roles),
                    task=self.stores[own[0]].task,
                )
            )
        return self._lend(found)

    def _lend(self, views: list[EmbodimentView]) -> list[EmbodimentView]:
        """The views with the ranges of others where a store asks for them."""
        asked: dict[int, str] = {}
        for member, settings in zip(self.members, self.config.stores, strict=True):
            if settings.like is not None and asked.setdefault(member, settings.like) != settings.like:
                given = asked[member], settings.like
                raise ConfigError(explain("stores of one embodiment like several", given=given))
        lenders = [view for index, view in enumerate(views) if index not in asked]
        for index, like in asked.items():
            own = views[index]
            _, lent = borrow_view(lenders, own.embodiment, like, where="the mixture")
            if own.environment_names != lent.environment_names:
                raise ConfigError(
                    explain(
                        f"'{own.embodiment.name}' has another environment_state than '{like}', which lends it ranges",
                        given=own.environment_names,
                        allowed=lent.environment_names,
                        mend="leave like out, or privileged state out of the recipe",
                    )
                )
            views[index] = replace(own, normalizer=lent.normalizer)
        return views

    def image_size(self, roles: Sequence[str]) -> tuple[int, int]:
        """(height, width) of every camera slot: as configured, or that of the first camera of the first store."""
        if self.config.image_size is not None:
            return self.config.image_size
        for store, member in zip(self.stores, self.config.stores, strict=True):
            for role in roles:
                camera = member.cameras.get(role, role)
                if camera in store.cameras:
                    height, width, _ = store.streams[f"image/{camera}"].shape
                    return height, width
        return (96, 96)

    def camera_of(self, store: int, role: str) -> str | None:
        """The camera of a store that plays a role, None where there is none."""
        camera = self.config.stores[store].cameras.get(role, role)
        return camera if camera in self.stores[store].cameras else None

    def describe(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: stores, rates, residuals of resampling, embodiments."""
        config = to_dict(self.config)
        for entry in config["stores"]:
            entry["path"] = lasting_path(entry["path"])  # a run is continued from any folder
        return {
            "mixture": config,
            "content_hash": self.content_hash,
            "task": ", ".join(sorted({store.task for store in self.stores if store.task})),
            "episodes": self.num_episodes,
            "steps": self.num_steps,
            "rate_hz": self.rate_hz,
            "stores": [
                {
                    "path": lasting_path(store.path),
                    "task": store.task,
                    "episodes": store.num_episodes,
                    "steps": store.num_steps,
                    "embodiment": {"name": store.embodiment.name, "hash": store.embodiment.hash},
                    "resampling": store.residual.to_dict() if isinstance(store, ResampledStore) else None,
                }
                for store in self.stores
            ],
        }

    def _settings(self, own: list[int]) -> dict[str, Any]:
        members: list[MemberConfig] = [self.config.stores[i] for i in own]
        overrides: dict[str, str] = {}
        for member in members:
            clash = {c: (s, overrides[c]) for c, s in member.slots.items() if overrides.get(c, s) != s}
            if clash:
                raise ConfigError(explain("stores of one embodiment map a channel to several slots", given=clash))
            overrides |= member.slots
        return {"overrides": overrides, "leave_out_unknown": any(m.leave_out_unknown for m in members)}

    def _cameras(self, own: list[int], roles: Sequence[str]) -> dict[str, str]:
        played = [(role, camera) for i in reversed(own) for role in roles if (camera := self.camera_of(i, role))]
        return dict(played)  # the first store of the robot decides

    def _check_roles(self, roles: Sequence[str]) -> None:
        unknown = [role for role in roles if all(self.camera_of(i, role) is None for i in range(len(self.stores)))]
        wrong = {
            m.path: missing
            for m, store in zip(self.config.stores, self.stores, strict=True)
            if (missing := {r: c for r, c in m.cameras.items() if c not in store.cameras})
        }
        if unknown or wrong:
            raise ConfigError(
                explain(
                    f"camera roles that no store plays: {unknown}; cameras that are not in their store: {wrong}",
                    allowed={str(store.path): store.cameras for store in self.stores},
                    mend="map roles with cameras: {role: camera} of each store",
                )
            )
