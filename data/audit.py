"""The audit of a store: what was found while it was made, and what its numbers say. ``audit.json`` inside the store.

``audit.journal`` beside it grows by one line per episode while a conversion runs, written before the episode is
committed, so that a killed conversion loses nothing; at the end both become one ``audit.json``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.data.audit_judge import judge
from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import storage_errors, sync_folders, write_atomically
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, explain

__all__ = ["AUDIT_FILE", "JOURNAL_FILE", "SCHEMA", "AuditBook", "read_audit", "table"]

SCHEMA = "robopolicy.audit/1"
AUDIT_FILE, JOURNAL_FILE = "audit.json", "audit.journal"


class AuditBook:
    """Collects findings and checks of a conversion. The caller holds the store's lock."""

    def __init__(self, folder: Path, present: Iterable[str]):
        """Take up what earlier runs left of the episodes that are in the store.

        Args:
            folder: Of the store.
            present: Source ids of its episodes.
        """
        self.folder = folder
        kept = set(present)
        self.episodes: dict[str, dict[str, Any]] = {}
        if (folder / AUDIT_FILE).is_file():
            self.episodes = {k: v for k, v in read_audit(folder)["episodes"].items() if k in kept}
        self.episodes |= {k: v for k, v in _journal(folder / JOURNAL_FILE).items() if k in kept}
        self.skipped: dict[str, dict[str, Any]] = {}
        self._stream: Any = None

    def note(self, episodes: Iterable[tuple[str, Sequence[Finding], Mapping[str, Any]]]) -> None:
        """Record (id, findings, checks) of episodes, before they are committed.

        Raises:
            StorageError: the disk refused.
        """
        path = self.folder / JOURNAL_FILE
        with storage_errors(path):
            if self._stream is None:
                self._stream = path.open("ab")
                # a line that a killed process left unfinished must not swallow the next one
                self._stream.write(b"\n")
            for name, findings, checks in episodes:
                entry = {"findings": [_entry(f) for f in findings], "checks": dict(checks)}
                self.episodes[name] = entry
                self._stream.write(json.dumps({"id": name, **entry}).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def forget(self, episode: str) -> None:
        """The episode was refused when it was to be committed."""
        self.episodes.pop(episode, None)

    def skip(self, episode: str, reason: str, findings: Sequence[Finding]) -> None:
        """Record an episode that was left out."""
        self.skipped[episode] = {"reason": reason, "findings": [_entry(f) for f in findings]}

    def finish(self, store: EpisodeStore, findings: Sequence[Finding], about: Mapping[str, Any]) -> dict[str, Any]:
        """Judge everything, write ``audit.json`` and drop the journal.

        Args:
            store: As it stands now.
            findings: About the source as a whole.
            about: Format, source, expected number of episodes.

        Returns:
            The document.

        Raises:
            StorageError: the disk refused; the journal is kept.
        """
        every = [*findings]
        for entry in self.episodes.values():
            every += [Finding(**f) for f in entry["findings"]]
        for name, entry in self.skipped.items():
            every += [Finding(**f) for f in entry["findings"]]
            every.append(Finding("skipped_episode", entry["reason"], "warning", episode=name))
        checks = {name: entry["checks"] for name, entry in self.episodes.items()}
        judged, streams = judge(store, checks)
        every += judged
        document = {
            "schema": SCHEMA,
            **about,
            "num_episodes": store.num_episodes,
            "num_steps": store.num_steps,
            "content_hash": store.content_hash,
            "counts": counts(every),
            "findings": [_entry(f) for f in every],
            "streams": streams,
            "skipped": self.skipped,
            "episodes": self.episodes,
        }
        write_atomically(self.folder / AUDIT_FILE, [json.dumps(document, indent=1, allow_nan=False).encode()])
        sync_folders([self.folder])
        self.close()
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
        return document

    def close(self) -> None:
        """Give up the journal's file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def counts(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """Kind -> how many of each severity, and how many were repaired."""
    found: dict[str, Counter[str]] = {}
    for finding in findings:
        counter = found.setdefault(finding.kind, Counter())
        counter["repaired" if finding.repaired else finding.severity] += 1
    return {kind: dict(counter) for kind, counter in sorted(found.items())}


def read_audit(folder: str | Path) -> dict[str, Any]:
    """The audit of the store at ``folder``.

    Raises:
        FileNotFoundError: it has none.
        DataError: cut, or of another schema.
    """
    path = Path(folder) / AUDIT_FILE
    mend = "delete the file and run the conversion again; the store itself is not touched"
    try:
        document = json.loads(path.read_bytes())
        found = document["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(explain(f"{path} is damaged: {error}", mend=mend)) from error
    if found != SCHEMA:
        raise DataError(explain(f"{path} has another schema", given=found, allowed=SCHEMA, mend=mend))
    return dict(document)


def table(document: Mapping[str, Any], *, most: int = 12) -> str:
    """The audit in a few lines: one per kind and stream, worst first."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for finding in document["findings"]:
        severity = "repaired" if finding.get("repaired") else finding.get("severity", "warning")
        rows.setdefault((severity, finding["kind"], finding.get("stream", "")), []).append(finding["message"])
    rank = {"error": 0, "repaired": 1, "warning": 2, "note": 3}
    ordered = sorted(rows.items(), key=lambda item: (rank.get(item[0][0], 9), item[0]))
    lines = [f"audit: {document['num_episodes']} episodes, {document['num_steps']} steps"]
    for (severity, kind, stream), messages in ordered[:most]:
        shown = messages[0] if len(messages) == 1 else f"{len(messages)} times, first: {messages[0]}"
        where = f" {stream}" if stream else ""
        lines.append(f"  {severity:<8} {kind}{where}: {shown if len(shown) <= 200 else shown[:197] + '...'}")
    if len(ordered) > most:
        lines.append(f"  ... and {len(ordered) - most} more in {AUDIT_FILE}")
    return "\n".join(lines)


def _entry(finding: Finding) -> dict[str, Any]:
    """Only what says something."""
    entry = dataclasses.asdict(finding)
    return {k: v for k, v in entry.items() if v not in ("", False)}


def _journal(path: Path) -> dict[str, dict[str, Any]]:
    """Whole lines of the journal; the last one may be cut."""
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
            found[entry.pop("id")] = {"findings": entry["findings"], "checks": entry["checks"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
