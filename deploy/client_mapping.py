"""How a policy server that is not ours is asked: its keys, its images and its action columns, all by name.

openpi's protocol says nothing about what an observation is called or what an action column means. That has to be
written down for every such server, in a YAML of ``configs/policy_server`` (``openpi.yaml`` is an example).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.client_errors import ReplyError
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.registry import registry
from robopolicy.schema import build, setting
from robopolicy.types import Observation

__all__ = ["Column", "ServerMapping", "fitted", "load_mapping", "require_mapping"]


@dataclass(frozen=True)
class Column:
    """A channel of the card as the server counts it: theirs = scale * ours + offset."""

    channel: str = setting("channel of the card")
    scale: float = setting("factor; -1 with offset 1 turns a gripper that is 1 when closed", default=1.0)
    offset: float = setting("added, in the server's unit", default=0.0)

    def __post_init__(self) -> None:
        if not self.scale:
            raise DeployError(explain("a column needs a scale", given=f"{self.channel}: scale 0"))


@dataclass(frozen=True)
class ServerMapping:
    """A foreign server, as ``configs/policy_server/<name>.yaml`` describes it."""

    actions: tuple[str | Column, ...] = setting("columns of the reply's actions, as channels of the card")
    action_horizon: int = setting("actions carried out before the next request", ge=1, le=1024)
    state: dict[str, tuple[str | Column, ...]] = setting("its key -> channels of the state", default={})
    images: dict[str, str] = setting("its key -> camera of the card", default={})
    image_size: tuple[int, int] | None = setting("height and width that it wants; null: as captured", default=None)
    prompt: str = setting("instruction, where the daemon has none", default="")
    prompt_key: str = setting("its key of the instruction; empty: none is sent", default="prompt")
    actions_key: str = setting("its key of the actions in the reply", default="actions")
    dt_s: float | None = setting("seconds between its actions; null: the card's control step", default=None)

    def check(self, card: Embodiment) -> ServerMapping:
        """Compare with the robot.

        Raises:
            EmbodimentError: no such channel or camera.
            DeployError: action channels missing or given twice, or another rate.
        """
        named = [column.channel for column in _columns(self.actions)]
        if sorted(named) != sorted(card.action.names):
            raise DeployError(
                explain(
                    "the action columns are not the channels of the card",
                    given=named,
                    allowed=card.action.names,
                    mend="name every channel once, in the order of the server's columns",
                )
            )
        for column in (column for columns in self.state.values() for column in _columns(columns)):
            card.state.index(column.channel)
        for camera in self.images.values():
            card.camera(camera)
        if self.dt_s is not None and abs(self.dt_s - card.control_dt_s) > 0.01 * card.control_dt_s:
            mend = "use a card with that control_hz"
            raise DeployError(
                explain("the server's actions have another rate", given=self.dt_s, allowed=card.control_dt_s, mend=mend)
            )
        return self

    def spec(self, card: Embodiment) -> PolicySpec:
        """What the daemon has to provide for it."""
        cameras = tuple(dict.fromkeys(self.images.values()))
        return PolicySpec(card, 1, self.action_horizon, self.action_horizon, bool(self.state), cameras=cameras)

    def observation(self, seen: Observation, card: Embodiment) -> dict[str, Any]:
        """The newest row in the server's words."""
        message: dict[str, Any] = {}
        for key, columns in self.state.items():
            message[key] = np.array(
                [
                    column.scale * float(seen.state[-1, card.state.index(column.channel)]) + column.offset
                    for column in _columns(columns)
                ],
                np.float32,
            )
        for key, camera in self.images.items():
            message[key] = fitted(seen.image[camera][-1], self.image_size)
        if self.prompt_key:
            message[self.prompt_key] = seen.language or self.prompt
        return message

    def actions_of(self, reply: Mapping[str, Any], card: Embodiment) -> NDArray[np.float64]:
        """The reply's actions as values [H, A] of the card.

        Raises:
            ReplyError: no such array.
        """
        given, columns = reply.get(self.actions_key), _columns(self.actions)
        if not isinstance(given, np.ndarray) or given.ndim != 2 or given.shape[1] != len(columns):
            told = given.shape if isinstance(given, np.ndarray) else type(given).__name__
            allowed = f"[H, {len(columns)}]"
            raise ReplyError(explain(f"'{self.actions_key}' is no chunk of actions", given=told, allowed=allowed))
        theirs = given.astype(np.float64)
        ours = {c.channel: (theirs[:, i] - c.offset) / c.scale for i, c in enumerate(columns)}
        return card.pack(ours)


def load_mapping(name: str) -> ServerMapping:
    """A mapping of ``configs/policy_server``.

    Raises:
        UnknownNameError: no such YAML.
        ConfigError: it is faulty; all problems at once.
    """
    return build(ServerMapping, registry("policy_server").config(name), f"policy_server.{name}")


def fitted(image: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """An image [H, W, 3] scaled into ``size`` (height, width) with its proportions kept, black around it."""
    if size is None or image.shape[:2] == size:
        return image
    from PIL import Image

    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(extent * scale)) for extent in image.shape[:2])
    scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    framed = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    framed[top : top + height, left : left + width] = scaled
    return framed


def _columns(entries: tuple[str | Column, ...]) -> list[Column]:
    return [Column(entry) if isinstance(entry, str) else entry for entry in entries]


def require_mapping(name: str | None) -> ServerMapping:
    """The mapping of a foreign server.

    Raises:
        DeployError: none is named.
        UnknownNameError, ConfigError: as :func:`load_mapping`.
    """
    if name is None:
        raise DeployError(
            explain(
                "the server does not say which robot its policy is for, nor what its columns mean",
                allowed=registry("policy_server").names(),
                mend="describe it as configs/policy_server/openpi.yaml does, then deploy.remote.mapping=NAME",
            )
        )
    return load_mapping(name)
