"""Checkpoints: a directory of safetensors and JSON, hashed, written beside and renamed into place. No pickle.

::

    runs/pick/checkpoints/
      0_policy/                 one folder per recipe stage: <index>_<name>
        step_00001000/
          weights.safetensors   ema.safetensors   optimizer.safetensors
          policy.json           how to build it: target, parameters, noise schedule, sampler grid
          embodiment.json       normalizer.json
          trainer.json          step, data order, learning-rate schedule, EMA counter, RNG states
          manifest.json         format version, SHA-256 and size of every file above; written last
      best.json                 which one had the lowest validation loss

A directory without a manifest is not a checkpoint; a manifest whose hashes do not hold is a damaged one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.errors import CheckpointError, StorageError, explain

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT",
    "Checkpoint",
    "best",
    "find",
    "latest",
    "load",
    "mark_best",
    "prune",
    "save",
    "step_folder",
    "write_json",
    "write_text",
]

FORMAT = 1
"""Version of the directory format. A reader refuses newer ones."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The verified content of one checkpoint directory.

    Attributes:
        path: Where it was read from.
        documents: JSON files by stem: ``policy``, ``embodiment``, ``normalizer``, ``trainer``.
        manifest: Format version, step, stage and file hashes.
    """

    path: Path
    documents: Mapping[str, Any]
    manifest: Mapping[str, Any]

    def document(self, name: str) -> Any:
        """One JSON document.

        Raises:
            CheckpointError: the checkpoint does not hold it.
        """
        if name not in self.documents:
            raise CheckpointError(explain(f"checkpoint {self.path} has no {name}.json", allowed=sorted(self.documents)))
        return self.documents[name]

    def tensors(self, name: str, device: str = "cpu") -> dict[str, Tensor]:
        """The tensors of ``<name>.safetensors``.

        Raises:
            CheckpointError: there is no such file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = f"{name}.safetensors"
        if file not in self.manifest["files"]:
            raise CheckpointError(
                explain(
                    f"checkpoint {self.path} has no {file}",
                    allowed=sorted(self.manifest["files"]),
                    mend="ask for weights it holds",
                )
            )
        try:
            return load_file(self.path / file, device=device)
        except SafetensorError as error:
            raise CheckpointError(explain(f"{self.path / file} cannot be read: {error}")) from error


def step_folder(run_dir: Path, stage_index: int, stage: str, step: int) -> Path:
    """Where the checkpoint of that stage and step belongs."""
    return run_dir / "checkpoints" / f"{stage_index}_{stage}" / f"step_{step:08d}"


def save(
    path: Path,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    header: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint so that ``path`` either is complete or does not exist.

    Args:
        path: Directory to create; replaced if it exists.
        tensors: Name -> tensors, stored as ``<name>.safetensors``.
        documents: Name -> JSON-able content, stored as ``<name>.json``.
        header: Further entries of the manifest.

    Raises:
        StorageError: the disk is full or refuses. What was at ``path`` before is intact.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _sweep(path.parent)
        temporary.mkdir(parents=True)
        files: dict[str, dict[str, Any]] = {}
        for name, group in tensors.items():
            contents = to_bytes({k: t.detach().cpu().contiguous() for k, t in group.items()})
            files[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", contents)
        for name, document in documents.items():
            files[f"{name}.json"] = _write(temporary / f"{name}.json", _json(_unbounded(document)))
        manifest = {"format": FORMAT, **(header or {}), "files": files}
        _write(temporary / MANIFEST, _json(manifest))
        _sync_folder(temporary)
        _replace(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _storage_error(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint directory; tensors are read when asked for.

    Raises:
        CheckpointError: no manifest, a newer format, or a file that is missing, cut or altered (named).
    """
    path = Path(path)
    manifest = _manifest(path)
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(explain(f"checkpoint {path} lacks {name}", mend=_MEND))
        if file.stat().st_size != entry["bytes"]:
            raise CheckpointError(
                explain(f"{file} is cut", given=f"{file.stat().st_size} bytes", allowed=entry["bytes"], mend=_MEND)
            )
        if _sha256(file) != entry["sha256"]:
            raise CheckpointError(explain(f"{file} was altered: its SHA-256 differs from the manifest", mend=_MEND))
    documents = {Path(n).stem: json.loads((path / n).read_text()) for n in manifest["files"] if n.endswith(".json")}
    return Checkpoint(path, documents, manifest)


def latest(run_dir: Path) -> Path:
    """The newest complete checkpoint of a run: highest stage, then highest step. Incomplete ones are passed over.

    Raises:
        CheckpointError: there is none.
    """
    found = _complete(Path(run_dir))
    if not found:
        raise CheckpointError(
            explain(f"no checkpoint in {run_dir}", mend="train first (robopolicy train ... out=DIR), or check the path")
        )
    return found[-1]


def best(run_dir: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, or None if none was marked or it no longer exists."""
    pointer = Path(run_dir) / "checkpoints" / "best.json"
    if not pointer.is_file():
        return None
    path = pointer.parent / json.loads(pointer.read_text())["checkpoint"]
    return path if (path / MANIFEST).is_file() else None


def find(path: Path, which: str = "last") -> Path:
    """A checkpoint directory from a run directory or from itself.

    Args:
        path: Either kind of directory.
        which: ``last`` or ``best``, for a run directory.

    Raises:
        CheckpointError: nothing usable there.
    """
    path = Path(path)
    if which not in ("last", "best"):
        raise CheckpointError(explain("unknown choice of checkpoint", given=which, allowed=("last", "best")))
    if not path.is_dir():
        raise CheckpointError(explain("no such run or checkpoint", given=path, mend="check the path"))
    if (path / MANIFEST).is_file() or path.name.startswith("step_"):
        return path
    if which == "best":
        chosen = best(path)
        if chosen is None:
            raise CheckpointError(explain(f"no best checkpoint in {path}", mend="train with validation, or use 'last'"))
        return chosen
    return latest(path)


def mark_best(run_dir: Path, path: Path, **values: float) -> None:
    """Record that ``path`` is the best so far; ``values`` say by what."""
    root = Path(run_dir) / "checkpoints"
    write_json(root / "best.json", {"checkpoint": path.relative_to(root).as_posix(), **values})


def prune(run_dir: Path, keep_last: int) -> list[Path]:
    """Delete old checkpoints of each stage, keeping the newest ``keep_last`` and the best. Returns what went."""
    kept_best = best(run_dir)
    gone = []
    stages: dict[Path, list[Path]] = {}
    for path in _complete(Path(run_dir)):
        stages.setdefault(path.parent, []).append(path)
    for paths in stages.values():
        for path in paths[: -max(keep_last, 1)]:
            if path != kept_best:
                # Without its manifest it is no checkpoint any more, whatever happens during the removal.
                (path / MANIFEST).unlink()
                shutil.rmtree(path)
                gone.append(path)
    return gone


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically.

    Raises:
        StorageError: the disk refuses.
    """
    write_text(path, _json(content).decode())


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically.

    Raises:
        StorageError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, text.encode())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _storage_error(path, error) from error


_MEND = "take another checkpoint of the run (older ones stand beside it), or train again"


def _complete(run_dir: Path) -> list[Path]:
    found = [m.parent for m in (run_dir / "checkpoints").glob(f"*/step_*/{MANIFEST}")]
    return sorted(found, key=lambda p: (int(p.parent.name.split("_", 1)[0]), int(p.name.split("_", 1)[1])))


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(
            explain(f"{path} is not a complete checkpoint: it has no {MANIFEST}", mend="it was cut off; " + _MEND)
        )
    try:
        manifest = json.loads(file.read_text())
        version, _ = int(manifest["format"]), manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(explain(f"{file} is damaged", mend=_MEND)) from error
    if version > FORMAT:
        raise CheckpointError(
            explain(f"{path} has a newer format", given=version, allowed=f"<= {FORMAT}", mend="upgrade robopolicy")
        )
    return manifest


def _unbounded(value: Any) -> Any:
    """Infinite limits of an embodiment card as the text that :meth:`Embodiment.from_dict` reads; JSON has no number."""
    if isinstance(value, Mapping):
        return {k: _unbounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unbounded(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _write(file: Path, contents: bytes) -> dict[str, Any]:
    with open(file, "wb") as stream:
        stream.write(contents)
        stream.flush()
        os.fsync(stream.fileno())
    return {"sha256": hashlib.sha256(contents).hexdigest(), "bytes": len(contents)}


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    """A rename cannot replace a full directory, so an old one steps aside first."""
    if path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.rename(path, aside)
        os.rename(temporary, path)
        shutil.rmtree(aside)
    else:
        os.rename(temporary, path)
    _sync_folder(path.parent)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind; a live writer's folder carries the id of a live process."""
    for pattern in (".step_*.part", ".step_*.old"):
        for left in folder.glob(pattern):
            if not _alive(int(left.suffixes[-2][1:]) if left.suffixes[-2][1:].isdigit() else 0):
                shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    return pid == os.getpid() or (pid > 0 and Path(f"/proc/{pid}").exists())


def _storage_error(path: Path, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = f"the disk is full: cannot write {path}" if full else f"cannot write {path}: {error.strerror or error}"
    mend = "free some space and resume the run" if full else "check the path and its permissions"
    return StorageError(explain(what, mend=mend + "; earlier checkpoints are intact"))
