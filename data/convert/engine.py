"""Converts a source into an episode store: in the order of the source, restartable, with one or several processes.

Finished episodes are recognised by ``metadata.source.id`` in the store, which is committed with them: killed at any
moment, a conversion continues where it was. What it was made from and how stands in ``provenance.conversion`` of the
store; a run that asks for something else is refused.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.audit import AuditBook
from robopolicy.data.convert.plan import Opened, Request, open_conversion
from robopolicy.data.convert.pool import WorkerPool
from robopolicy.data.convert.prepare import prepare
from robopolicy.data.convert.recognise import recognise
from robopolicy.data.convert.resume import open_conversion_store, source_ids
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.transfer import Prepared
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.errors import DataError, RobopolicyError, explain

__all__ = ["ConversionReport", "convert"]

Tell = Callable[[int, int, str], None]
"""(episodes read, episodes in all, a word) -> None."""
_COMMIT_BYTES, _COMMIT_EPISODES = 1 << 25, 64
"""Short episodes are committed together; what a kill can undo, and what is in memory, stays below this."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        out: The store.
        format: Name of the source's format.
        episodes, steps: In the store now.
        converted: Episodes that this run added.
        skipped: Source ids that were left out.
        findings: All of the audit.
        audit: The document of ``audit.json``.
        wall_s, cpu_s: Of this run; CPU seconds of the workers included.
    """

    out: Path
    format: str
    episodes: int
    steps: int
    converted: int
    skipped: tuple[str, ...]
    findings: tuple[Finding, ...]
    audit: Mapping[str, Any]
    wall_s: float
    cpu_s: float


def convert(
    source: str | Path,
    out: str | Path,
    *,
    format: str = "auto",
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    codec: str = "jpeg",
    embodiment: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    repair: Sequence[str] = (),
    skip_bad: bool = False,
    limit: int | None = None,
    progress: Tell | None = None,
    any_rate: bool = False,
) -> ConversionReport:
    """Convert ``source`` into the store ``out``, or continue a conversion that was stopped.

    Args:
        source: File or folder.
        out: The store; new, or begun by the same conversion.
        format: Registered name, or ``auto``.
        options: Of the format.
        workers: Processes that read and encode; 1 does everything in this one.
        codec: ``jpeg`` or ``raw``.
        embodiment: Card (name or YAML) whose channels have the names of the source's, or that the format maps to.
        image_size: (height, width) that all cameras are brought to.
        repair: Names of repairs, as findings name them.
        skip_bad: Leave out episodes that cannot be read or used, instead of ending there.
        limit: Only so many episodes from the beginning of the source.
        progress: Called after every episode.
        any_rate: Accept episodes whose measured rate is not the source's nominal one.

    Raises:
        DataError: the format is not clear, the source is damaged (the message names the episode), or ``out`` holds
            something else.
        ConfigError: options that the format does not have.
        StorageError: the disk refused, or another process writes ``out``. What was committed stays.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    source, out = Path(source), Path(out)
    name = recognise(source) if format == "auto" else format
    request = Request(str(source), name, dict(options or {}), tuple(repair), str(embodiment or ""), image_size, codec)
    opened = open_conversion(request)
    try:
        run = _Run(request, opened, out, skip_bad, any_rate, progress)
        with run.store:
            added, workers_s = run.all(limit, workers)
            document = run.finish()
            return ConversionReport(
                out,
                name,
                run.store.num_episodes,
                run.store.num_steps,
                added,
                tuple(run.book.skipped),
                tuple(Finding(**f) for f in document["findings"]),
                document,
                time.perf_counter() - wall,
                time.process_time() - cpu + workers_s,
            )
    finally:
        opened.source.close()


class _Run:
    """One run of a conversion, from the opened source to the audit."""

    def __init__(
        self, request: Request, opened: Opened, out: Path, skip_bad: bool, any_rate: bool, progress: Tell | None
    ):
        self.request, self.opened, self.out = request, opened, out
        self.skip_bad, self.any_rate, self.progress = skip_bad, any_rate, progress
        self.repair = frozenset(request.repair)
        self._waiting: list[Prepared] = []
        self._waiting_bytes = 0
        self.store = open_conversion_store(out, request, opened.info)
        try:
            self.present = source_ids(self.store)
            self.book = AuditBook(out, self.present)
        except BaseException:
            self.store.close()
            raise

    def all(self, limit: int | None, workers: int) -> tuple[int, float]:
        """Convert what is missing. -> (episodes added, CPU seconds of the workers)."""
        ids = self.opened.info.episodes
        if len(set(ids)) != len(ids):
            raise DataError(explain("the source names an episode twice", given=_repeated(ids)))
        wanted = ids[:limit] if limit is not None else ids
        missing = [i for i in wanted if i not in self.present]
        before, total = self.store.num_episodes, self.store.num_episodes + len(missing)
        spool = self.out.with_name(f".{self.out.name}.spool")
        shutil.rmtree(spool, ignore_errors=True)  # of a killed run; the store's lock is ours, so nobody works in it
        with contextlib.ExitStack() as stack:
            stack.callback(self.book.close)
            pool: WorkerPool | None = None
            if workers > 1 and len(missing) > 1:
                pool = WorkerPool(self.request, min(workers, len(missing)), spool, replace_dead=self.skip_bad)
                stack.enter_context(pool)
            try:
                for prepared in pool.prepared(missing) if pool else self._here(missing):
                    self._take(prepared)
                    if self.progress is not None:
                        self.progress(self.store.num_episodes + len(self._waiting), total, _note(self.book))
            except (RobopolicyError, KeyboardInterrupt):
                with contextlib.suppress(RobopolicyError):
                    self._flush()
                raise
            self._flush()
        return self.store.num_episodes - before, pool.cpu_s if pool else 0.0

    def _here(self, missing: Sequence[str]) -> Iterator[Prepared]:
        for name in missing:
            yield prepare(self.opened.source, name, self.opened.preparation)

    def _take(self, prepared: Prepared) -> None:
        """Keep an episode for the next commit, or refuse it as the flags say.

        Raises:
            DataError: the episode is bad and ``skip_bad`` was not given.
        """
        reason = prepared.error or self._refusal(prepared)
        if reason or prepared.episode is None:
            self._flush()
            self._refuse(prepared, reason)
            return
        self._waiting.append(prepared)
        self._waiting_bytes += _size(prepared.episode)
        if self._waiting_bytes >= _COMMIT_BYTES or len(self._waiting) >= _COMMIT_EPISODES:
            self._flush()

    def _flush(self) -> None:
        """Commit what waits: together, or one by one when the store refuses one of them."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        self.book.note([(p.id, p.findings, p.checks) for p in waiting])
        episodes = [p.episode for p in waiting if p.episode is not None]
        try:
            self.store.append_many(episodes, any_rate=self.any_rate)
            return
        except DataError as error:
            if len(waiting) == 1:
                self.book.forget(waiting[0].id)
                self._refuse(waiting[0], str(error))
                return
        for n, prepared in enumerate(waiting):
            assert prepared.episode is not None
            try:
                self.store.append(prepared.episode, any_rate=self.any_rate)
            except DataError as error:
                for later in waiting[n:] if not self.skip_bad else [prepared]:
                    self.book.forget(later.id)
                self._refuse(prepared, str(error))

    def _refuse(self, prepared: Prepared, reason: str) -> None:
        """Leave the episode out, or end here.

        Raises:
            DataError: ``skip_bad`` was not given.
        """
        if self.skip_bad:
            self.book.skip(prepared.id, reason, prepared.findings)
            return
        repairs = sorted({f.repair for f in prepared.findings if f.repair and not f.repaired} - self.repair)
        mend = (
            f"repair=[{','.join(repairs)}], or leave it out: skip_bad=true"
            if repairs
            else "leave it out: skip_bad=true"
        )
        raise DataError(
            explain(
                f"episode '{prepared.id}' of {self.request.source}: {reason}",
                mend=f"{mend} ({self.store.num_episodes} episodes are in {self.out}; run again to continue)",
            )
        )

    def _refusal(self, prepared: Prepared) -> str:
        """Why the findings forbid the episode; empty when they do not."""
        bad = [f for f in prepared.findings if f.severity == "error" and not f.repaired and f.repair not in self.repair]
        if bad or prepared.episode is None:
            told = bad or prepared.findings
            return "; ".join(f.message for f in told) or "the converter gave no episode and no reason"
        return ""

    def finish(self) -> dict[str, Any]:
        """Write the audit."""
        info = self.opened.info
        findings = list(info.findings)
        expected = info.expected_episodes
        told = any(f.kind == "missing_episode" for f in findings)
        if expected is not None and expected != len(info.episodes) and not told:
            text = f"the source speaks of {expected} episodes, {len(info.episodes)} are there"
            findings.append(Finding("missing_episode", text))
        about = {
            "format": self.request.format,
            "source": self.request.source,
            "expected_episodes": expected,
            "present_episodes": len(info.episodes),
        }
        return self.book.finish(self.store, findings, about)


def _size(episode: Episode) -> int:
    """Bytes of an episode in memory."""
    return sum(
        sum(map(len, v.blobs)) if isinstance(v, EncodedFrames) else np.asarray(v).nbytes
        for v in episode.streams.values()
    )


def _repeated(ids: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [i for i in ids if i in seen or seen.add(i)][:5]  # type: ignore[func-returns-value]


def _note(book: AuditBook) -> str:
    return f"{len(book.skipped)} left out" if book.skipped else ""
