"""A worker process of a conversion: ids in, one file per episode out. Started by :mod:`robopolicy.data.convert.pool`.

Protocol, one JSON object per line: the first line in is ``{source, format, options, repair, ...}``, each further one
``{id, file}``. Out goes ``{ready}``, then per id ``{id, cpu_s}`` or, when the process cannot go on, ``{fatal, kind}``.
The end of input ends the process, so that no worker outlives the conversion.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main() -> int:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    # Libraries that print must not disturb the protocol.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**entries: Any) -> None:
        answers.write(json.dumps(entries) + "\n")
        answers.flush()

    line = sys.stdin.readline()
    if not line:
        return 0
    try:
        from robopolicy.data.convert.plan import Request, open_conversion
        from robopolicy.data.convert.prepare import prepare
        from robopolicy.data.convert.transfer import send

        opened = open_conversion(Request.from_dict(json.loads(line)))
        answer(ready=True)
        for line in sys.stdin:
            task = json.loads(line)
            answer(begun=task["id"])
            send(prepare(opened.source, task["id"], opened.preparation), Path(task["file"]))
            answer(id=task["id"], cpu_s=time.process_time())
        opened.source.close()
    except Exception as error:
        answer(fatal=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
