"""What is known of an exported policy without loading it; imports neither torch nor a runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robopolicy.embodiment import Embodiment
from robopolicy.errors import CheckpointError, explain

__all__ = ["DOCUMENT", "FORMAT", "GRAPH", "exported_cameras", "is_exported", "read_document"]

GRAPH, DOCUMENT = "policy.onnx", "policy.json"
FORMAT = 2


def is_exported(path: str | Path) -> bool:
    """Whether a folder holds an exported policy."""
    return (Path(path) / DOCUMENT).is_file() and (Path(path) / GRAPH).is_file()


def read_document(path: str | Path) -> dict[str, Any]:
    """The description beside the graph.

    Raises:
        CheckpointError: no exported policy, or one of another format.
    """
    folder = Path(path)
    if not is_exported(folder):
        raise CheckpointError(
            explain("no exported policy", given=str(folder), mend="write one with: robopolicy export RUN out=FOLDER")
        )
    document: dict[str, Any] = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise CheckpointError(
            explain("exported in another format", given=document.get("format"), allowed=FORMAT, mend="export it again")
        )
    return document


def exported_cameras(path: str | Path, card: Embodiment) -> tuple[str, ...]:
    """Cameras that it reads.

    Raises:
        CheckpointError: as :func:`read_document`.
        EmbodimentMismatchError: it is for another robot.
    """
    document = read_document(path)
    trained = Embodiment.from_dict(document["embodiment"])
    card.require_same(trained, mine=f"the robot {card.name}", theirs=f"the policy {path}")
    return tuple(document["spec"]["cameras"])
