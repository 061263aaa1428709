"""What a stage is fed: the policy built for its data, and batches of one store or of a mixture of stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from robopolicy.data.files import lasting_path
from robopolicy.data.frame_cache import default_cache_bytes
from robopolicy.data.hindsight import goal_range, stream_columns
from robopolicy.data.loader import Loader
from robopolicy.data.mixture import Mixture
from robopolicy.data.mixture_config import is_mixture, read_mixture
from robopolicy.data.mixture_order import mixture_indices
from robopolicy.data.mixture_windows import MixtureDataset
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, DataError, explain
from robopolicy.goals import GoalConfig, goal_width
from robopolicy.models.language import with_vocabulary
from robopolicy.normalize import Normalizer
from robopolicy.policies.loading import build_policy, derived_ranges, policy_parameters
from robopolicy.policies.mixture import MASK_FEATURES, identity_normalizer
from robopolicy.protocols import PolicySpec
from robopolicy.schema import build as build_config
from robopolicy.seeding import generator
from robopolicy.slots import slot_card
from robopolicy.training.order import BlockedOrder, Order
from robopolicy.training.recipe import Recipe, Stage

__all__ = ["Feed", "MixtureSource", "Source", "StoreSource", "open_source"]

MOST_RANGE_WINDOWS = 200_000
FORMS = {"increment": "increment"}
"""Form of a chunk that a recipe's ``action_form`` asks of the views of a mixture; absolute otherwise."""


@dataclass(frozen=True)
class Feed:
    """A stage's policy and its batches.

    Attributes:
        policy: Fresh, on the CPU.
        normalizer: Goes into the checkpoint.
        train: Batches of the micro-batch size.
        train_size: Windows in it.
        validation, validation_indices: Held-out batches, None and [] for none.
        order: Of the training windows; None for epochs of all of them.
    """

    policy: Any
    normalizer: Normalizer
    train: Any
    train_size: int
    validation: Any
    validation_indices: np.ndarray
    order: Order | None = None


class Source(Protocol):
    """Data that a run learns from."""

    @property
    def embodiment(self) -> Embodiment:
        """Card that goes into the checkpoint."""
        ...

    @property
    def content_hash(self) -> str:
        """Of everything that the run depends on."""
        ...

    @property
    def num_episodes(self) -> int:
        """Of all stores."""
        ...

    def describe(self) -> dict[str, Any]:
        """Entry ``data`` of config.yaml and of checkpoints."""
        ...

    def feed(self, stage: Stage, name: str, recipe: Recipe, micro: int) -> Feed:
        """Policy and batches of a stage; initial weights are a function of (seed, stage)."""
        ...


def open_source(data: str | Path, entry: dict[str, Any] | None = None) -> Source:
    """A store, or the stores of a mixture.

    Args:
        data: Store, or YAML of a mixture.
        entry: Entry ``data`` of a run that is continued: a mixture is taken from it, whatever became of the YAML.

    Raises:
        StoreNotFoundError, DataError, ConfigError: as the store or the mixture.
    """
    if not is_mixture(data):
        return StoreSource(Path(data))
    kept = (entry or {}).get("mixture")
    return MixtureSource(Path(data), kept if kept is not None else read_mixture(data))


class StoreSource:
    """One store, one robot, physical units."""

    def __init__(self, path: Path):
        self.path, self.store = path, EpisodeStore.open(path)

    @property
    def embodiment(self) -> Embodiment:
        """Of the store."""
        return self.store.embodiment

    @property
    def content_hash(self) -> str:
        """Of the store."""
        return self.store.content_hash

    @property
    def num_episodes(self) -> int:
        """Of the store."""
        return self.store.num_episodes

    def describe(self) -> dict[str, Any]:
        """Path, content, task, size, embodiment."""
        store = self.store
        return {
            "path": lasting_path(self.path),
            "content_hash": store.content_hash,
            "task": store.task,
            "episodes": int(store.num_episodes),
            "steps": int(store.num_steps),
            "embodiment": {"name": store.embodiment.name, "hash": store.embodiment.hash},
        }

    def feed(self, stage: Stage, name: str, recipe: Recipe, micro: int) -> Feed:
        """See :class:`Source`."""
        store: Any = self.store
        training, held_out = train_val_episodes(store.num_episodes, stage.validation.fraction, recipe.seed)
        wanted = with_vocabulary(policy_parameters(stage.policy, stage.parameters), _instructions(store))
        named, goal = tuple(wanted.get("environment_names") or ()), _goal(wanted)
        normalizer = _normalizer(store, stage, training, named, goal)
        _seed_weights(recipe.seed, name)
        policy = build_policy(
            stage.policy,
            wanted,
            embodiment=store.embodiment,
            normalizer=normalizer,
            environment_state=len(named) or len(store.environment_state_names),
        )
        _check_trainable(policy, stage, name)
        spec = _window_spec(cast(PolicySpec, policy.spec), store, goal)
        share = len(training) / store.num_episodes
        windows = WindowDataset(store, spec, episodes=training, **_cache(recipe, share))
        validation, indices = _validation(store, spec, held_out, stage, recipe, 1 - share)
        train = Loader(windows, micro, workers=recipe.workers)
        order = BlockedOrder(len(windows), windows.blocks) if _is_local(recipe, windows, share) else None
        return Feed(policy, normalizer, train, len(windows), validation, indices, order)


class MixtureSource:
    """Several stores in semantic slots; the recipe's policy is put inside the policy ``mixture``."""

    def __init__(self, path: Path, config: Any):
        self.path, self.mixture = path, Mixture.open(config)

    @property
    def embodiment(self) -> Embodiment:
        """The slot card, without cameras: those are the recipe's choice."""
        return slot_card(self.mixture.rate_hz, (), (1, 1), MASK_FEATURES)

    @property
    def content_hash(self) -> str:
        """Of the configuration and all stores."""
        return self.mixture.content_hash

    @property
    def num_episodes(self) -> int:
        """Of all stores."""
        return self.mixture.num_episodes

    def describe(self) -> dict[str, Any]:
        """Stores, shares, residuals of resampling."""
        return {"path": str(self.path.absolute()), **self.mixture.describe()}

    def feed(self, stage: Stage, name: str, recipe: Recipe, micro: int) -> Feed:
        """See :class:`Source`."""
        mixture, wanted = self.mixture, policy_parameters(stage.policy, stage.parameters)
        wanted = with_vocabulary(wanted, _instructions(*mixture.stores))
        if goal := _goal(wanted):
            raise ConfigError(
                explain(
                    "the batches of a mixture hold no goals",
                    given=f"{stage.policy}.goal={goal}",
                    mend="set goal=0, or train on one store",
                )
            )
        roles = tuple(wanted.get("cameras") or ())
        seen, ahead = (int(wanted[k]) for k in ("observation_horizon", "prediction_horizon"))
        training, held_out = mixture.split(stage.validation.fraction, recipe.seed)
        views = mixture.views(
            seen,
            ahead,
            form=FORMS.get(str(wanted.get("action_form")), "absolute"),
            environment_state=bool(wanted.get("environment_state")),
            roles=roles,
            episodes=training,
        )
        card = slot_card(mixture.rate_hz, roles, mixture.image_size(roles), MASK_FEATURES)
        normalizer = identity_normalizer(card, len(views[0].environment_union))
        _seed_weights(recipe.seed, name)
        parameters = {"policy": stage.policy, "parameters": wanted}
        policy = build_policy(
            "mixture",
            {**parameters, "views": [view.to_dict() for view in views]},
            embodiment=card,
            normalizer=normalizer,
            environment_state=len(views[0].environment_union),
        )
        _check_trainable(policy, stage, name)
        windows = MixtureDataset(mixture, views, ahead, roles, training)
        order = partial(mixture_indices, windows.sizes, mixture.shares(windows.sizes))
        train = Loader(windows, micro, workers=recipe.workers)
        validation, indices = self._validation(views, ahead, roles, held_out, stage, recipe.seed)
        return Feed(policy, normalizer, train, len(windows), validation, indices, order)

    def _validation(
        self, views: Any, ahead: int, roles: Any, held_out: Any, stage: Stage, seed: int
    ) -> tuple[Any, np.ndarray]:
        """As for one store; the windows looked at are mixed in the shares of training."""
        if not any(len(episodes) for episodes in held_out):
            return None, np.zeros(0, np.int64)
        windows = MixtureDataset(self.mixture, views, ahead, roles, held_out)
        size = min(stage.batch_size, len(windows))
        count = min(len(windows) // size, stage.validation.batches)
        full = [i for i, n in enumerate(windows.sizes) if n]
        offsets = np.concatenate([[0], np.cumsum(windows.sizes)])
        sizes = [windows.sizes[i] for i in full]
        drawn = mixture_indices(sizes, self.mixture.shares(windows.sizes)[full], seed, 0, count, size).reshape(-1)
        # Back from the numbering of the stores that hold any to that of the data set.
        packed = np.concatenate([[0], np.cumsum(sizes)])
        store = np.searchsorted(packed, drawn, side="right") - 1
        return Loader(windows, size), drawn - packed[store] + offsets[np.array(full)[store]]


def _instructions(*stores: Any) -> Iterator[str]:
    """Of all episodes, held out or not: a vocabulary has to know them all."""
    return (str(store.info(i)["language"]) for store in stores for i in range(store.num_episodes))


def _seed_weights(seed: int, stage: str) -> None:
    torch.manual_seed(int(generator("weights", seed, stage).integers(2**63)))


def _check_trainable(policy: Any, stage: Stage, name: str) -> None:
    if not isinstance(policy, torch.nn.Module) or not hasattr(policy, "loss"):
        raise ConfigError(explain(f"policy '{stage.policy}' of stage '{name}' cannot be trained", allowed="diffusion"))


def _cache(recipe: Recipe, share: float) -> dict[str, Any]:
    """What a data set may keep of its frames: its share of the recipe's memory, or of what is free."""
    nbytes = default_cache_bytes(round(recipe.cache_gib * 2**30))
    return {"cache_bytes": int(nbytes * share), "cache_folder": recipe.cache_folder}


def _is_local(recipe: Recipe, windows: WindowDataset, share: float) -> bool:
    """Whether samples are shuffled in blocks: a question of the recipe and the data, never of what memory is free.

    Otherwise a run that is resumed, or another process of it, could go through the data in another order.
    """
    return recipe.cache_folder is None and windows.frame_bytes > recipe.cache_gib * 2**30 * share


def _validation(
    store: Any, spec: WindowSpec, held_out: Any, stage: Stage, recipe: Recipe, share: float
) -> tuple[Any, np.ndarray]:
    """A loader over the held-out windows, and which of them are looked at: spread evenly, the same every time."""
    if not len(held_out):
        return None, np.zeros(0, np.int64)
    windows = WindowDataset(store, spec, episodes=held_out, **_cache(recipe, share))
    size = min(stage.batch_size, len(windows))
    count = min(len(windows) // size, stage.validation.batches) * size
    chosen = generator("validation", recipe.seed).permutation(len(windows))[:count]
    return Loader(windows, size), np.sort(chosen).astype(np.int64)


def _goal(parameters: Mapping[str, Any]) -> int | GoalConfig:
    """The policy's parameter ``goal``, see :mod:`robopolicy.goals`; 0 for families that have none."""
    entry = parameters.get("goal") or 0
    return build_config(GoalConfig, entry, where="policy.goal") if isinstance(entry, Mapping) else int(entry)


def _window_spec(spec: PolicySpec, store: Any, goal: int | GoalConfig) -> WindowSpec:
    absent = [c for c in spec.cameras if c not in store.cameras]
    if absent:
        raise DataError(
            explain(
                f"the recipe reads cameras {absent} that the store does not hold",
                allowed=list(store.cameras),
                mend="collect with these cameras, or change the policy's cameras",
            )
        )
    return WindowSpec(
        observation_horizon=spec.observation_horizon,
        prediction_horizon=spec.prediction_horizon,
        state=True,
        environment_state=bool(spec.environment_state),
        cameras=spec.cameras,
        environment_names=spec.environment_names,
        goal=goal,
    )


def _normalizer(
    store: Any, stage: Stage, episodes: Any, environment_names: tuple[str, ...], goal: int | GoalConfig
) -> Normalizer:
    """Ranges from the store's statistics, and those that the policy asks for from the training windows."""

    def windows(observation_horizon: int, prediction_horizon: int) -> dict[str, Any]:
        spec = WindowSpec(observation_horizon, prediction_horizon, environment_state=False)
        dataset = WindowDataset(store, spec, episodes=episodes)
        # Evenly spread windows are enough for a range, and bound the memory.
        return dataset.gather(np.unique(np.linspace(0, len(dataset) - 1, MOST_RANGE_WINDOWS).astype(np.int64)))

    names = ["state", "action", *(["environment_state"] if len(store.environment_state_names) else [])]
    statistics: dict[str, Any] = {n: store.statistics(n) for n in names}
    if environment_names:
        columns, found = stream_columns(store, environment_names), statistics["environment_state"]
        statistics["environment_state"] = {"min": found.min[columns], "max": found.max[columns]}
    if goal_width(goal):
        statistics["goal"] = goal_range(store, goal)
    statistics |= derived_ranges(stage.policy, stage.parameters, store.embodiment, windows)
    return Normalizer.from_statistics(statistics, store.embodiment)
