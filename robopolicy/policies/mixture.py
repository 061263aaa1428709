"""One policy for several robots: any trainable family inside, semantic slots with masks around it.

::

    batch in slots --mask--> inner.loss(present=mask)                                   training
    observation of one robot --view.forward--> inner.sample(present=mask) --view.backward--> ActionChunk of that robot

The network is as wide as the slots that any of its robots has: inputs that are always 0 would only weaken the others
at the start of training. The inner policy sees slot vectors that are in range already (its normaliser is the identity)
and a learnt linear map of all masks, so that it can tell a joint at 0 from no joint. Slots that a robot lacks are 0
before every pass of the network, in training and in sampling alike, and carry no loss: their gradient is exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.channels import ChannelGroup
from robopolicy.config import build as build_config
from robopolicy.embodiment import Embodiment
from robopolicy.embodiment_view import EmbodimentView, find_view
from robopolicy.errors import ConfigError, EmbodimentMismatchError, explain
from robopolicy.normalize import Normalizer, StreamNormalizer
from robopolicy.protocols import PolicySpec
from robopolicy.slots import NUM_SLOTS
from robopolicy.types import ActionChunk, Batch, Losses, Observation

if TYPE_CHECKING:
    from robopolicy.policies.mixture_bound import BoundPolicy

__all__ = ["MASK_FEATURES", "MixturePolicy", "MixturePolicyConfig", "build", "identity_normalizer", "inner_parameters"]

MASK_FEATURES = 16
"""Width of what the network is told of the masks."""


@dataclass(frozen=True)
class MixturePolicyConfig:
    """What is inside, and for which robots.

    Attributes:
        policy: Registry name of the inner family; it needs ``sample`` and ``loss(..., present=)``.
        parameters: Of the inner family.
        views: One per embodiment, see :meth:`EmbodimentView.to_dict`; written by training, not by hand.
    """

    policy: str = "diffusion"
    parameters: dict[str, Any] = field(default_factory=dict)
    views: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.policy == "mixture":
            raise ConfigError(explain("a mixture cannot hold a mixture", given=self.policy, allowed="diffusion"))
        if not self.views:
            raise ConfigError(
                explain(
                    "a mixture policy has no embodiments",
                    mend="name the inner family in the recipe (policy: diffusion) and train with data=<mixture>.yaml",
                )
            )


class MixturePolicy(nn.Module):
    """Trainable on batches in slots; :meth:`bind` gives the policy of one robot.

    Args:
        config: See :class:`MixturePolicyConfig`.
        card: The slot card, see :func:`robopolicy.slots.slot_card`, with :data:`MASK_FEATURES` channels more.

    Raises:
        ConfigError: views that do not belong together, or an inner family that cannot be masked.
    """

    state_at: Tensor
    action_at: Tensor
    state_mask: Tensor
    action_mask: Tensor
    environment_mask: Tensor
    camera_mask: Tensor

    def __init__(self, config: MixturePolicyConfig, card: Embodiment):
        super().__init__()
        self.config = config
        self.views = [EmbodimentView.from_dict(v) if isinstance(v, Mapping) else v for v in config.views]
        self.roles = tuple(camera.name for camera in card.cameras)
        self.environment_names = self.views[0].environment_union
        self.card = card
        used = {n: np.any([getattr(v, n) for v in self.views], axis=0) for n in ("state_mask", "action_mask")}
        for name, mask in used.items():
            at = torch.from_numpy(np.flatnonzero(mask))
            self.register_buffer(name.replace("mask", "at"), at, persistent=False)
        self.inner = _inner(config, card, used["state_mask"], used["action_mask"], len(self.environment_names))
        self._check()
        tables = {
            "state_mask": [v.state_mask for v in self.views],
            "action_mask": [v.action_mask for v in self.views],
            "environment_mask": [v.environment_mask for v in self.views],
            "camera_mask": [[role in v.cameras for role in self.roles] for v in self.views],
        }
        for name, rows in tables.items():
            values = torch.tensor(np.array(rows, bool).reshape(len(self.views), -1))
            self.register_buffer(name, values, persistent=False)
        bits = len(self.state_at) + len(self.action_at) + len(self.environment_names) + len(self.roles)
        self.masks = nn.Linear(bits, MASK_FEATURES)

    @property
    def spec(self) -> PolicySpec:
        """In slots; the spec of a robot is that of :meth:`bind`."""
        return replace(self.inner.spec, embodiment=self.card)

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """Cards of the robots that it serves."""
        return tuple(view.embodiment for view in self.views)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights."""
        inner = self.inner.description()
        parameters = {"policy": self.config.policy, "parameters": inner["parameters"]}
        return {
            **inner,
            "target": f"{__name__}:build",
            "parameters": {**parameters, "views": [view.to_dict() for view in self.views]},
        }

    def change(self, changes: Mapping[str, Any]) -> None:
        """Let the inner family act otherwise from now on, see :mod:`robopolicy.policies.changes`.

        Raises:
            ConfigError: a parameter that weights depend on.
        """
        self.inner.change(changes)

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Losses:
        """Loss of the inner family over what each robot has; ``parts`` also holds ``denoising/<embodiment>``.

        Args:
            batch: In slots, from :class:`robopolicy.data.mixture_windows.MixtureDataset`.
            rng: As for the inner family.

        Raises:
            ConfigError: a batch of one robot's physical units.
        """
        if batch.embodiment_index is None or batch.state_mask is None:
            raise ConfigError(
                explain("a mixture policy trains on batches of a mixture", mend="train with data=<mixture>.yaml")
            )
        present = batch.action_mask.any(dim=1)  # the row of the newest observation is never padding
        ready = self._ready(batch, batch.embodiment_index, batch.state_mask, present)
        losses: Losses = self.inner.loss(ready, rng=rng, present=present[:, self.action_at])
        if losses.per_sample is not None:
            for index, card in enumerate(self.embodiments):
                own = batch.embodiment_index == index
                if bool(own.any()):
                    losses.parts[f"denoising/{self._label(card)}"] = losses.per_sample[own].mean()
        return losses

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """By the observation's embodiment; see :meth:`bind`.

        Raises:
            EmbodimentMismatchError: it is not in the mixture; those that are, are named.
        """
        return self.bind(observation.embodiment).act(observation, rng=rng, prefix=prefix, goal=goal)

    def bind(self, embodiment: str | Embodiment | None, like: str | None = None) -> BoundPolicy:
        """The policy of one robot, with its own spec and physical units; shares the weights.

        Args:
            embodiment: Name, content hash or card; None where there is only one.
            like: Robot of the mixture that lends its ranges to one that is not in it (zero-shot).

        Raises:
            EmbodimentMismatchError: not in the mixture; those that are, are named. With ``like``: it cannot borrow.
        """
        from robopolicy.borrowed_view import borrow_view
        from robopolicy.policies.mixture_bound import BoundPolicy

        if like is not None and embodiment is not None:
            return BoundPolicy(self, *borrow_view(self.views, embodiment, like, where="the mixture policy"))
        return BoundPolicy(self, find_view(self.views, embodiment, where="the mixture policy"))

    def sample(
        self,
        index: int,
        state: np.ndarray,
        environment_state: np.ndarray,
        images: Mapping[str, np.ndarray],
        generator: np.random.Generator,
        language: str = "",
    ) -> np.ndarray:
        """A chunk in slots for one robot, f64 [Tp, NUM_SLOTS], 0 where it has none.

        Args:
            index: Of its view.
            state: Slots [To, NUM_SLOTS].
            environment_state: [To, E of the mixture], normalised.
            images: Role -> uint8 [To, h, w, 3], for the roles that it has.
            generator: The only source of randomness.
            language: Instruction.
        """
        device = self.state_mask.device
        view = self.views[index]
        at = torch.tensor([index], device=device)
        shape = (1, self.spec.observation_horizon, *view.image_size, 3)
        blank = torch.zeros(shape, dtype=torch.uint8, device=device)
        batch = Batch(
            state=_tensor(state, device),
            action=torch.zeros((1, 0, NUM_SLOTS), device=device),
            action_mask=torch.zeros((1, 0, NUM_SLOTS), dtype=torch.bool, device=device),
            embodiment=self.spec.embodiment.hash,
            image={r: torch.as_tensor(images[r], device=device)[None] if r in images else blank for r in self.roles},
            environment_state=_tensor(environment_state, device) if len(self.environment_names) else None,
            image_mask={r: torch.tensor([r in images], device=device) for r in self.roles},
        )
        present = self.action_mask[at]
        ready = self._ready(batch, at, self.state_mask[at], present)
        chunk = self.inner.sample(
            ready.state,
            ready.environment_state,
            ready.image,
            generator,
            image_mask=ready.image_mask,
            present=present[:, self.action_at],
            language=[language],
        )
        slots = np.zeros((chunk.shape[1], NUM_SLOTS))
        slots[:, self.action_at.cpu().numpy()] = chunk[0].double().cpu().numpy()
        return slots

    def _ready(self, batch: Batch, index: Tensor, state_mask: Tensor, present: Tensor) -> Batch:
        """The batch as the inner family reads it: absent entries 0, what is known of the masks behind the state."""
        state, environment = batch.state * state_mask[:, None, :], batch.environment_state
        seen = self.environment_mask[index]
        if environment is not None:
            environment = environment * seen[:, None, :]
        cameras = [batch.image_mask[role][:, None] for role in self.roles]
        here = [state_mask[:, self.state_at], present[:, self.action_at]]
        bits = torch.cat([*here, seen, *cameras], dim=1).to(batch.state.dtype)
        told = self.masks(bits)[:, None, :].expand(-1, batch.state.shape[1], -1)
        return Batch(
            state=torch.cat([state[..., self.state_at], told.to(state.dtype)], dim=-1),
            action=batch.action[..., self.action_at],
            action_mask=batch.action_mask[..., self.action_at],
            embodiment=batch.embodiment,
            image=batch.image,
            environment_state=environment if self.spec.environment_state else None,
            language=batch.language,
            image_mask=batch.image_mask,
        )

    def _label(self, card: Embodiment) -> str:
        names = [c.name for c in self.embodiments]
        return card.name if names.count(card.name) == 1 else f"{card.name}:{card.hash}"

    def _check(self) -> None:
        problems = []
        for view in self.views[1:]:
            first = self.views[0]
            if (view.environment_union, view.image_size) != (first.environment_union, first.image_size):
                problems.append(explain("views of different mixtures", given=view.embodiment.name))
        if any(view.observation_horizon != self.inner.spec.observation_horizon for view in self.views):
            problems.append(
                explain("views for another observation horizon", allowed=self.inner.spec.observation_horizon)
            )
        if problems:
            raise ConfigError(problems)


def inner_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the inner family within a mixture: absolute, because the views give chunks their form."""
    found = {**parameters}
    if "action_form" in found:
        found["action_form"] = "absolute"
    return found


def identity_normalizer(card: Embodiment, environment: int) -> Normalizer:
    """Scale 1, offset 0, for streams that are in range already."""
    widths = {"state": len(card.state), "action": len(card.action), "environment_state": environment}
    return Normalizer({n: StreamNormalizer(np.ones(w), np.zeros(w)) for n, w in widths.items() if w})


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer | None, environment_state: int = 0
) -> MixturePolicy:
    """The registry's entry.

    Args:
        parameters: See :class:`MixturePolicyConfig`.
        embodiment: The slot card.
        normalizer: Not used: every view holds its own.
        environment_state: Not used: the views know the channels.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    return MixturePolicy(build_config(MixturePolicyConfig, parameters, where="policy"), embodiment)


def _inner(
    config: MixturePolicyConfig, card: Embodiment, state: np.ndarray, action: np.ndarray, environment: int
) -> Any:
    """The inner policy over the slots in use, and what is said of the masks behind those of the state."""
    from robopolicy.policies.loading import build_policy

    if len(card.action) != NUM_SLOTS or len(card.state) != NUM_SLOTS + MASK_FEATURES:
        raise EmbodimentMismatchError(
            explain(
                "a mixture policy is built on the slot card", given=card.name, mend="train with data=<mixture>.yaml"
            )
        )
    told = np.concatenate([state, np.ones(MASK_FEATURES, bool)])
    card = replace(
        card,
        custom_state=ChannelGroup(tuple(c for c, used in zip(card.state.channels, told, strict=True) if used)),
        custom_action=ChannelGroup(tuple(c for c, used in zip(card.action.channels, action, strict=True) if used)),
    )
    policy = build_policy(
        config.policy,
        inner_parameters(config.parameters),
        embodiment=card,
        normalizer=identity_normalizer(card, environment),
        environment_state=environment,
    )
    if not isinstance(policy, nn.Module) or not (hasattr(policy, "sample") and hasattr(policy, "loss")):
        raise ConfigError(
            explain(
                f"policy '{config.policy}' cannot be trained on a mixture", allowed="a family with sample() and loss()"
            )
        )
    return policy


def _tensor(values: Sequence[Any] | np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32), device=device)[None]
