"""The policy process: observations in, chunks out. It may block, crash or leak; it has no authority over the arm.

``python -m robopolicy.deploy.policy_worker RUN_DIR PARENT_PID`` is started by the supervisor, and again after a crash.

It asks for a new chunk every ``Ta`` control steps, counted from the observation used last, exactly as evaluation does;
when inference takes longer, from the newest observation there is. With ``deploy.between`` it hands the policy what is
still scheduled (rtc), or averages its chunks before they are sent (ensemble, as often as the policy can answer). Rows
of an observation are sensor frames that are one control step apart, on the sensors' own time.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.control.between import Between, BetweenConfig
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.client_errors import PolicyServerError
from robopolicy.deploy.config import read_daemon
from robopolicy.deploy.outlook import Outlook
from robopolicy.deploy.policy_source import build_policy
from robopolicy.deploy.process import ParentWatch, die_with_parent, ignore_terminal_signals
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.deploy.state_machine import State
from robopolicy.protocols import Policy
from robopolicy.seeding import generator
from robopolicy.types import ActionChunk, Observation

__all__ = ["PolicyWorker", "main"]

POLL_S = 0.002
COMPLAINT_NS = 1_000_000_000


class PolicyWorker:
    """Turns sensor frames into chunks while the arm is ALIGNING or RUNNING.

    Args:
        policy: Who decides.
        bus: Shared memory.
        between: How one chunk follows another.
        lead_ns: How far the executor's clock is ahead: a chunk that arrives now is followed from then on.
    """

    def __init__(self, policy: Policy, bus: Bus, between: BetweenConfig | None = None, lead_ns: int = 0):
        self._policy, self._bus = policy, bus
        self._between, self._lead_ns = Between(between or BetweenConfig(), policy.spec), lead_ns
        self._outlook = Outlook(bus.ring("schedule"), policy.spec.embodiment.hash)
        self._frames = bus.ring("frames")
        self._epoch = -1
        self._last_step = self._calls = 0
        self._complained_ns = -COMPLAINT_NS

    def warm_up(self, calls: int) -> None:
        """Call the policy on an invented observation, so that its first real call is not its slowest."""
        spec = self._policy.spec
        for call in range(calls):
            seen, rng = _invented(spec), generator("warm-up", call)
            begin_ns = monotonic_ns()
            chunk = self._policy.act(seen, rng=rng)
            ahead = dataclasses.replace(chunk, horizon=1)
            if prefix := self._between.prefix(lambda *_, ahead=ahead: ahead, int(seen.time_ns[-1])):
                begin_ns = monotonic_ns()
                self._policy.act(seen, rng=rng, prefix=prefix)
            # replaces that of the call before: the first one is slow, and would be expected for a long time
            self._between.expect(monotonic_ns() - begin_ns + self._lead_ns)

    def poll(self) -> bool:
        """Make a chunk when one is due. -> whether it did."""
        self._bus.heartbeat.beat("worker")
        found = self._bus.ring("state").latest()
        if found is None or not State(int(found[1]["state"])).moving:
            return False
        epoch = int(found[1]["epoch"])
        newest = self._frames.latest()
        if newest is None:
            return False
        number, frame = newest
        step = int(frame["step"])
        for delay_ns in self._outlook.poll(epoch):
            self._between.measured(delay_ns)
        if epoch != self._epoch:
            self._epoch, self._calls = epoch, 0
            self._between.begin()
        elif not self._between.due(step - self._last_step, waiting=False):
            return False
        observation = self._observe(number, frame)
        try:
            chunk, inference_ns = self._decide(observation, frame)
        except PolicyServerError as error:
            # Without a chunk the arm comes to rest by itself; when the server is back, the next poll has one.
            self._complain(error)
            return False
        self._last_step, self._calls = step, self._calls + 1
        starts_ns = monotonic_ns() + self._lead_ns
        wanted = self._between.arrived(chunk, starts_ns, standing=self._outlook.standing(starts_ns))
        if wanted is None:
            return True
        chunk = wanted
        self._bus.mailbox.put(chunk, epoch=epoch, obs_id=number, t_made_ns=monotonic_ns(), inference_ns=inference_ns)
        return True

    def _complain(self, error: PolicyServerError) -> None:
        now_ns = monotonic_ns()
        if now_ns - self._complained_ns > COMPLAINT_NS:
            self._complained_ns = now_ns
            print(f"no chunk: {error}", file=sys.stderr, flush=True)

    def _decide(self, observation: Observation, frame: np.void) -> tuple[ActionChunk, int]:
        split, index = bytes(frame["split"]).decode(), int(frame["index"])
        # The words that evaluation uses, so that both draw the same noise for the same call of the same episode.
        rng = generator("rollout", split, index, self._calls)
        begin_ns = monotonic_ns()
        prefix = self._between.prefix(self._outlook.scheduled, int(observation.time_ns[-1]))
        chunk = self._policy.act(observation, rng=rng, **({} if prefix is None else {"prefix": prefix}))
        return chunk, monotonic_ns() - begin_ns

    def _observe(self, number: int, frame: np.void) -> Observation:
        """The last To frames of the scene, one control step apart; the first frame is repeated where none is older."""
        spec = self._policy.spec
        dt_ns = round(spec.embodiment.control_dt_s * 1e9)
        rows, times = [frame], [int(frame["time_ns"])]
        for back in range(1, spec.observation_horizon):
            older = self._frames.read(number - back) if number > back else None
            usable = older is not None and int(older["scene"]) == int(frame["scene"])
            rows.insert(0, older if usable and older is not None else rows[0])
            times.insert(0, int(frame["time_ns"]) - back * dt_ns)
        width = int(frame["environment_width"])
        return Observation(
            state=np.stack([row["state"] for row in rows]),
            time_ns=np.array(times, np.int64),
            embodiment=spec.embodiment.hash,
            image={name: np.stack([row[f"image/{name}"] for row in rows]) for name in spec.cameras},
            environment_state=np.stack([row["environment_state"][:width] for row in rows]) if width else None,
        )


def _invented(spec: Any) -> Observation:
    from robopolicy.control.robot import RobotKinematics

    card, horizon = spec.embodiment, spec.observation_horizon
    state = np.asarray(RobotKinematics(card).tcp_state(card.home_position), np.float32)
    dt_ns = round(card.control_dt_s * 1e9)
    images = {}
    for name in spec.cameras:
        camera = card.camera(name)
        images[name] = np.zeros((horizon, camera.height, camera.width, 3), np.uint8)
    return Observation(
        state=np.repeat(state[None], horizon, axis=0),
        time_ns=np.arange(1, horizon + 1, dtype=np.int64) * dt_ns,
        embodiment=card.hash,
        image=images,
        environment_state=np.zeros((horizon, spec.environment_state), np.float32) if spec.environment_state else None,
    )


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor ends this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    die_with_parent()
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.deploy.torch_threads))
    policy = build_policy(config, config.card)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(config.deploy.torch_threads)
    lead_ns = round((config.deploy.lookahead_ticks - 1) * config.card.tick_s * 1e9)
    worker = PolicyWorker(policy, Bus.attach({"mailbox"}), config.deploy.between, lead_ns)
    worker.warm_up(config.deploy.warm_up)
    while not parent.lost:
        if not worker.poll():
            time.sleep(POLL_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
