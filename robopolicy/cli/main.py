"""Entry of ``robopolicy``: finds the verb, runs it, turns errors into one message and an exit code.

Exit codes: 0 done, 1 the verb's own answer is no (for example ``doctor``), 2 an error to mend, 130 interrupted.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from robopolicy import __version__
from robopolicy.errors import CommandError, RobopolicyError, explain, suggest

__all__ = ["help_of", "main", "verbs"]

ORDER = (
    "demo",
    "collect",
    "replay",
    "data",
    "train",
    "eval",
    "compare",
    "suite",
    "sweep",
    "deploy",
    "bench-env",
    "claims",
    "doctor",
    "list",
)
"""How verbs are shown; any other follows in alphabetical order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        Exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        # here, and not when the interpreter ends, so that a reader that has left is met below
        sys.stdout.flush()
        return code
    except RobopolicyError as error:
        if os.environ.get("ROBOPOLICY_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; a second complaint at interpreter exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def verbs(folder: Path = Path(__file__).parent, order: Sequence[str] = ORDER) -> dict[str, str]:
    """Verb -> first line of its docstring, read from the source so that nothing heavy is imported.

    Args:
        folder: Where the files of the verbs stand.
        order: How they are shown.
    """
    found: dict[str, str] = {}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    rank = {name: i for i, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"robopolicy {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    known = verbs()
    if verb not in known:
        mend = suggest(verb, known) or "see robopolicy --help"
        raise CommandError(explain("no such command", given=verb, allowed=list(known), mend=mend))
    module = importlib.import_module(f"robopolicy.cli.{verb.replace('-', '_')}")
    if {"-h", "--help"} & set(rest[:1] if verb == "data" else rest):
        print(help_of(verb, module))
        return 0
    return int(module.run(rest))


def _overview() -> str:
    lines = [f"  {name:<12}{summary}" for name, summary in verbs().items()]
    return "\n".join(
        [
            "robopolicy: demonstrations, training, evaluation and deployment of manipulation policies",
            "",
            "usage: robopolicy <command> [key=value ...]",
            "",
            *lines,
            "",
            "robopolicy <command> --help    what it does, its keys with defaults, examples",
            "robopolicy doctor              what this machine has and lacks",
            "ROBOPOLICY_DEBUG=1             show the traceback of an error",
            "ROBOPOLICY_CONFIG_PATH=DIR     your own YAML, searched before the packaged one",
        ]
    )


def help_of(verb: str, module: ModuleType) -> str:
    """What ``robopolicy <verb> --help`` shows."""
    from robopolicy.cli.arguments import describe_keys

    text = (module.__doc__ or "").strip()
    config = getattr(module, "CONFIG", None)
    return f"robopolicy {verb}: {text}" + (
        f"\n\nKeys:\n{describe_keys(config, verb.replace(' ', '/').replace('-', '_'))}" if config else ""
    )
