"""The operator process: attaches to the daemon's shared memory, serves the page on loopback, ends with its parent."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.operator.access import URL_FILE, Tokens, remove_private, write_private
from robopolicy.deploy.process import ParentWatch, die_with_parent, ignore_terminal_signals
from robopolicy.errors import DeployError, explain

__all__ = ["main"]

WATCH_S = 0.2


async def serve(run_dir: Path, parent: ParentWatch, config: DaemonConfig, bus: Bus) -> int:
    """Serve until SIGTERM, or until the supervisor is gone."""
    from aiohttp import web

    from robopolicy.deploy.operator.server import OperatorServer

    tokens, leave = Tokens.create(run_dir), asyncio.Event()
    server = OperatorServer(run_dir, bus, config, tokens)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    chosen = config.deploy.operator
    site = web.TCPSite(runner, chosen.host, chosen.port)
    try:
        await site.start()
        port = runner.addresses[0][1]
        write_private(run_dir / URL_FILE, f"http://{chosen.host}:{port}/#token={tokens.operate}")
        # The log is not private: it says where the page is, and not with which token.
        print(f"operator: http://{chosen.host}:{port}/ (the token is in operator.url of the run)", file=sys.stderr)
        pump = asyncio.create_task(server.pump(leave))
        while not leave.is_set() and not parent.lost and not pump.done():
            await asyncio.wait({pump}, timeout=WATCH_S)
        leave.set()
        await pump
    finally:
        await server.close()
        await runner.cleanup()
        remove_private(run_dir)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor ends this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    die_with_parent()
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    bus = Bus.attach(set())
    try:
        return asyncio.run(serve(run_dir, parent, config, bus))
    except ModuleNotFoundError as error:
        problem = explain(
            "the operator's page needs a web server", given=error.name, mend="pip install robopolicy[deploy]"
        )
        print(f"operator: {DeployError(problem)}", file=sys.stderr)
    except OSError as error:
        port = config.deploy.operator.port
        problem = explain(
            "the operator's page cannot be served", given=f"port {port}: {error}", mend="choose another port"
        )
        print(f"operator: {DeployError(problem)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
