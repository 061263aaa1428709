"""Configuration of the daemon. One frozen dataclass that every process reads from ``deploy.json`` of the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.control.between import BetweenConfig
from robopolicy.control.clearance import ClearanceConfig
from robopolicy.deploy.client_config import RemoteConfig
from robopolicy.deploy.watch import WatchConfig
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, EmbodimentError, explain
from robopolicy.registry import registry
from robopolicy.schema import build, setting, to_dict

__all__ = [
    "DaemonConfig",
    "DeployConfig",
    "OperatorConfig",
    "RobotConfig",
    "read_daemon",
    "require_drivable",
    "robot_config",
    "write_daemon",
]

DAEMON_FILE = "deploy.json"


@dataclass(frozen=True)
class RobotConfig:
    """A robot of the registry ``configs/robot``: which driver, which card, and what plays the hardware."""

    target: str = setting("driver class, module:attribute; imported by the real-time process")
    embodiment: str = setting("embodiment card", default="panda")
    driver: dict[str, Any] = setting("further arguments of the driver: address, device, ids, calibration", default={})
    rate_hz: float = setting("setpoints per second; 0: the card's setpoint_hz", default=0.0, ge=0)
    clearance: dict[str, ClearanceConfig] = setting("what each arm keeps clear of; '' is the only arm", default={})
    process: str = setting("module that plays the robot in a process of its own; empty for hardware", default="")
    cameras: dict[str, dict[str, Any]] = setting(
        "where each camera is: source (module:Class) and arguments", default={}
    )
    timeout_s: float = setting("the controller's clock may stand still this long, s; 0: deploy's", default=0.0, ge=0)
    wire: dict[str, Any] = setting("box that it plays behind the vendor's wire: target and arguments", default={})
    plant: str = setting("what the simulated controller moves, module:attribute", default="")
    task: str = setting("task of the simulated scene", default="")
    options: dict[str, Any] = setting("further arguments of the plant", default={})


@dataclass(frozen=True)
class OperatorConfig:
    """The operator's page. Off unless asked for: nobody finds an open port beside an arm that he did not open."""

    port: int = setting(
        "port of the operator's page; 0 takes any free one, -1 serves none", default=-1, ge=-1, le=65535
    )
    host: Literal["127.0.0.1"] = setting(
        "loopback only; from elsewhere: ssh -L PORT:127.0.0.1:PORT", default="127.0.0.1"
    )


@dataclass(frozen=True)
class DeployConfig:
    """Every tunable of the daemon (``configs/deploy/*.yaml``)."""

    lookahead_ticks: int = setting(
        "setpoints are sent this many ticks ahead; being late by one tick less is harmless", default=6, ge=1, le=10
    )
    realtime_priority: int = setting("SCHED_FIFO priority of the real-time loop, 0 for none", default=80, ge=0, le=99)
    robot_priority: int = setting("SCHED_FIFO priority of a simulated robot, 0 for none", default=70, ge=0, le=99)
    torch_threads: int = setting("threads of the policy worker", default=1, ge=1)
    device: str = setting("torch device of the policy worker", default="auto")
    weights: str = setting("weights of the checkpoint: ema or raw", default="ema")
    warm_up: int = setting("dummy calls of the policy before it may run", default=2, ge=0)
    max_chunk_steps: int = setting("longest chunk", default=64, ge=1, le=1024)
    max_chunk_age_s: float = setting("a chunk from an older observation is refused, s", default=2.0, gt=0)
    worker_timeout_s: float = setting("a policy call may take this long, s", default=10.0, gt=0)
    robot_timeout_s: float = setting("the controller's clock may stand still this long, s", default=0.2, gt=0)
    robot_watchdog_s: float = setting("a simulated robot stops by itself after this silence, s", default=0.15, gt=0)
    guardian: bool = setting("a second process stops the robot when the real-time loop falls silent", default=True)
    guardian_timeout_s: float = setting("silence of the loop after which it does, s", default=0.05, gt=0)
    guardian_priority: int = setting("SCHED_FIFO priority of the guardian, 0 for none", default=85, ge=0, le=99)
    sensors_timeout_s: float = setting("a picture or joint state of a real robot may be this old, s", default=0.5, gt=0)
    supervisor_timeout_s: float = setting("the supervisor may be silent this long, s", default=2.0, gt=0)
    first_chunk_timeout_s: float = setting("ALIGNING waits this long for the first chunk, s", default=15.0, gt=0)
    slowest: float = setting("rate to which the path slows down before it would run dry", default=0.3, gt=0, le=1)
    longest_wait_s: float = setting("an unbuffered robot may get no setpoint this long, s", default=0.1, gt=0)
    watch: WatchConfig = setting("faults of following, of force and of clipping", default=WatchConfig())
    dry_grace_s: float = setting("RUNNING may rest this long for want of a chunk before HOLD, s", default=1.0, ge=0)
    align_position_m: float = setting("first action farther than this is approached slowly, m", default=0.1, gt=0)
    align_rotation_rad: float = setting("as above, rad; in joint space the bound of each joint", default=0.5, gt=0)
    align_speed: float = setting("speed of that approach, m/s and rad/s", default=0.1, gt=0, le=1)
    remote: RemoteConfig = setting("how a policy server is asked (policy=ws://...)", default=RemoteConfig())
    between: BetweenConfig = setting("how a chunk follows the last: naive, ensemble, rtc", default=BetweenConfig())
    state_capacity: int = setting("records of the state ring", default=4096, ge=64)
    blackbox: bool = setting("a logger process writes the black box (MCAP) into the run folder", default=True)
    blackbox_chunk_s: float = setting("seconds between two flushes of the black box", default=0.5, gt=0, le=60)
    blackbox_images: Literal["none", "jpeg"] = setting("camera frames in the black box", default="none")
    blackbox_max_gb: float = setting("the oldest files beyond this are deleted, GB", default=20.0, gt=0)
    dry_run: bool = setting("everything but sending: nothing is commanded or powered", default=False)
    record_setpoints: bool = setting("a simulated robot writes every setpoint to the run folder", default=True)
    operator: OperatorConfig = setting("the operator's page", default=OperatorConfig())
    deadman: bool = setting("motion needs a key or button held on the operator's page", default=False)
    deadman_timeout_s: float = setting(
        "a held key may be silent this long before the planned stop, s", default=0.5, gt=0
    )

    def __post_init__(self) -> None:
        if self.deadman and self.operator.port < 0:
            raise ConfigError(
                explain(
                    "a dead-man's switch is asked for that nobody can hold",
                    given="deploy.deadman=true, deploy.operator.port=-1",
                    mend="deploy.operator.port=0 serves the page that has it",
                )
            )


@dataclass(frozen=True)
class DaemonConfig:
    """What the processes of one run share."""

    policy: str = setting("run folder, checkpoint, or module:attribute of a factory(embodiment) -> Policy")
    robot: RobotConfig = setting("the robot")
    deploy: DeployConfig = setting("tunables", default=DeployConfig())
    control: dict[str, Any] = setting("overrides of ControlConfig", default={})
    cameras: tuple[str, ...] = setting("cameras that the policy reads", default=())

    def __post_init__(self) -> None:
        require_drivable(self.card)

    @property
    def card(self) -> Embodiment:
        """The robot's embodiment card."""
        return load_embodiment(self.robot.embodiment)

    @property
    def robot_timeout_s(self) -> float:
        """How long the controller's clock may stand still."""
        return self.robot.timeout_s or self.deploy.robot_timeout_s

    @property
    def has_sensors(self) -> bool:
        """Whether a process of its own makes the frames: everywhere but where the robot is played."""
        return not self.robot.process

    @property
    def tick_s(self) -> float:
        """Time between two setpoints."""
        return 1.0 / self.robot.rate_hz if self.robot.rate_hz else self.card.tick_s


def require_drivable(card: Embodiment) -> None:
    """Refuse a card that the controller cannot drive: it moves arms with a known chain and a gripper by their targets.

    Raises:
        EmbodimentError: poses of several arms, an arm without chain or gripper, no home posture, or actions that are
            not absolute targets.
    """
    several = len(card.arms) > 1
    wrong = {
        "it has no arm": not card.arms,
        f"its actions are poses of {len(card.arms)} arms": several and card.action_space == "ee_pose",
        "an arm has no chain": not all(arm.chain for arm in card.arms),
        "an arm has no gripper": not all(arm.gripper for arm in card.arms),
        "it has no home": not card.home,
        f"its actions are {card.action_space}, {card.action_reference}": card.action_space
        not in ("ee_pose", "joint_position")
        or card.action_reference != "absolute",
    }
    if any(wrong.values()):
        raise EmbodimentError(
            explain(
                f"the card '{card.name}' cannot be deployed",
                given="; ".join(reason for reason, holds in wrong.items() if holds),
                allowed="arms with chain, gripper and home, absolute targets as actions; of several: of their joints",
                mend="give the robot's YAML a card of such arms (embodiment: NAME), or complete this card",
            )
        )


def robot_config(name: str) -> RobotConfig:
    """A robot by its registry name.

    Raises:
        UnknownNameError: no such robot.
        ConfigError: its YAML is faulty; all problems at once.
    """
    return build(RobotConfig, registry("robot").config(name), f"robot.{name}")


def write_daemon(config: DaemonConfig, run_dir: Path) -> None:
    """Write ``deploy.json`` into the run folder."""
    (run_dir / DAEMON_FILE).write_text(json.dumps(to_dict(config), indent=1, sort_keys=True) + "\n")


def read_daemon(run_dir: Path) -> DaemonConfig:
    """Read ``deploy.json``, strictly."""
    return build(DaemonConfig, json.loads((run_dir / DAEMON_FILE).read_text()), "deploy")
