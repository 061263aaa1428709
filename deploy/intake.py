"""Where chunks are let in or refused, each refusal counted by its reason."""

from __future__ import annotations

from robopolicy.deploy.config import DeployConfig
from robopolicy.deploy.mailbox import ChunkMailbox, ReceivedChunk
from robopolicy.deploy.records import REFUSALS
from robopolicy.embodiment import Embodiment

__all__ = ["ChunkIntake"]


class ChunkIntake:
    """Takes messages out of the mailbox and judges their headers and numbers.

    Args:
        mailbox: Filled by the policy worker.
        card: Embodiment that chunks must be for.
        config: Ages allowed.

    Attributes:
        refused: Count by reason, see :data:`~robopolicy.deploy.records.REFUSALS`.
        accepted: The message that became motion in this tick, or None.
    """

    def __init__(self, mailbox: ChunkMailbox, card: Embodiment, config: DeployConfig):
        self._mailbox, self._card = mailbox, card
        self._ahead_ns = round(config.lookahead_ticks * card.tick_s * 1e9)
        self._oldest_ns = round(config.max_chunk_age_s * 1e9)
        self._last_obs_ns = 0
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.accepted: ReceivedChunk | None = None

    @property
    def torn(self) -> int:
        """Messages dropped because they were torn or damaged."""
        return self._mailbox.torn

    def begin_epoch(self) -> None:
        """The arm starts anew: any observation time is news."""
        self._last_obs_ns = 0

    def take(self, now_ns: int, *, epoch: int, moving: bool) -> ReceivedChunk | None:
        """The newest message, if it may become motion. The caller then says :meth:`accept` or :meth:`refuse`."""
        self.accepted = None
        received = self._mailbox.take()
        if received is None:
            return None
        reason = self._judge(received, now_ns, epoch) if moving else "not_running"
        if reason is None:
            return received
        self.refuse(reason)
        return None

    def accept(self, received: ReceivedChunk) -> None:
        """It has become motion."""
        self.accepted, self._last_obs_ns = received, received.t_obs_ns

    def refuse(self, reason: str) -> None:
        """It has not, for ``reason``."""
        self.refused[reason] += 1

    def _judge(self, received: ReceivedChunk, now_ns: int, epoch: int) -> str | None:
        card = self._card
        reason = received.refusal(
            epoch=epoch, embodiment=card.hash, action_width=len(card.action), dt_s=card.control_dt_s
        )
        if reason is not None:
            return reason
        if received.t_obs_ns > now_ns + self._ahead_ns:
            return "future"
        if received.t_obs_ns <= self._last_obs_ns:
            return "old"
        return "stale" if now_ns - received.t_obs_ns > self._oldest_ns else None
