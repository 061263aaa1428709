"""Strict JSON and whole files: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, StorageError, explain

__all__ = ["plain", "read_json", "write_json", "write_text"]


def plain(value: Any, where: str = "") -> Any:
    """``value`` in the types that strict JSON knows: numpy, paths, ranges, tuples and dataclasses are converted.

    Raises:
        DataError: a NaN, an infinity or a foreign type, named by its place.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(
                explain(f"{where or 'a value'} is not finite", given=value, mend="leave it out or use None")
            )
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), where)
    raise DataError(explain(f"{where or 'a value'} cannot be written as JSON", given=type(value).__name__))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text whole: into a temporary file beside ``path``, to the disk, then renamed over it.

    Raises:
        StorageError: the disk is full or refuses; what stood at ``path`` before is intact.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8", "replace"))
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp gives 0600; a report is to be read like any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise StorageError(
            explain(
                f"cannot write {target}",
                given=error.strerror or error,
                mend="free space or choose another folder with out=; what was there before is intact",
            )
        ) from error


def write_json(path: str | os.PathLike[str], value: Any) -> dict[str, Any]:
    """Write ``value`` as strict JSON (no NaN) and return it as it will be read back.

    Raises:
        DataError: the value cannot be written as strict JSON.
        StorageError: the disk refuses.
    """
    document = plain(value)
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def read_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The JSON object in ``path``; ``what`` names the kind of file in errors.

    Raises:
        FileNotFoundError: no such file.
        DataError: cut, not JSON, not an object, or with NaN in it.
        StorageError: the file cannot be read.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(Path(path).read_bytes(), parse_constant=refuse)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(explain(f"cannot read the {what} {path}", given=error.strerror or error)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(explain(f"the {what} {path} is cut or altered", given=error, mend="make it again")) from error
    if not isinstance(document, dict):
        raise DataError(explain(f"the {what} {path} is not a JSON object", given=type(document).__name__))
    return document
