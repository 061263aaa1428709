"""Which policy a name means: a run folder, a baseline, the task's expert, a factory in code, or a policy server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.deploy.client_config import RemoteConfig, is_remote
from robopolicy.deploy.config import DaemonConfig
from robopolicy.embodiment import Embodiment
from robopolicy.embodiment_view import find_view, stored_views
from robopolicy.errors import DeployError, explain
from robopolicy.exported import exported_cameras, is_exported, read_document
from robopolicy.protocols import Policy
from robopolicy.registry import load_target

if TYPE_CHECKING:
    from robopolicy.checkpoint import Checkpoint

__all__ = ["EXPERT", "build_policy", "cameras_of", "check_policy", "is_recording"]

EXPERT = "robopolicy.deploy.drivers.expert:expert"
BASELINES = ("null", "random")
RECORDING = ".mcap"


def build_policy(config: DaemonConfig, card: Embodiment) -> Policy:
    """The policy named in the configuration, checked against the robot.

    Args:
        config: ``policy`` is a run or checkpoint folder, ``null``, ``random``, ``expert``, ``module:attribute`` of a
            factory ``factory(embodiment) -> Policy``, the address of a policy server, or a black box (``FILE.mcap``).
        card: The robot.

    Raises:
        EmbodimentMismatchError: it was made for another robot.
        DeployError: it reads a camera that the daemon does not stream, or a goal, or the name means nothing.
    """
    name = config.policy
    policy: Policy | None = None
    check_policy(name)
    if is_remote(name):
        from robopolicy.deploy.remote_policy import RemotePolicy

        policy = RemotePolicy(card, name, config.deploy.remote, max_steps=config.deploy.max_chunk_steps)
    elif is_exported(name):
        from robopolicy.export import load_exported

        policy = load_exported(name, threads=config.deploy.torch_threads)
    elif Path(name).is_dir():
        from robopolicy.policies import load_policy

        several = stored_views(_checkpoint(Path(name)).document("policy")) is not None
        deploy = config.deploy
        only = card if several else None
        policy = load_policy(name, embodiment=only, device=deploy.device, weights=deploy.weights)
    elif name in BASELINES:
        from robopolicy.policies import build_policy as build_baseline

        policy = build_baseline(name, embodiment=card)
    elif is_recording(name):
        from robopolicy.deploy.replay_policy import RecordedPolicy

        policy = RecordedPolicy(name, card)
    elif name == "expert":
        policy = load_target(EXPERT)(card, config.robot.task)
    elif ":" in name:
        policy = load_target(name)(card)
    assert policy is not None
    card.require_same(policy.spec.embodiment, mine=f"the robot {card.name}", theirs=f"the policy {name}")
    _refuse_goal(name, policy.spec.goal or policy.spec.goal_cameras)
    missing = set(policy.spec.cameras) - set(config.cameras)
    if missing:
        raise DeployError(
            explain(
                "the policy reads cameras that are not streamed",
                given=sorted(missing),
                allowed=config.cameras,
                mend=f"cameras=[{','.join(policy.spec.cameras)}]",
            )
        )
    found: Policy = policy
    return found


def is_recording(name: str) -> bool:
    """Whether a policy's name means the chunks of a black box."""
    return name.endswith(RECORDING) and Path(name).is_file()


def check_policy(name: str) -> None:
    """Refuse a name that cannot mean a policy, or one that wants a goal, before any process is started.

    Raises:
        DeployError: neither a folder, nor a baseline, nor a factory; a trained policy that reads a goal.
        CheckpointError: the run folder holds no sound checkpoint.
    """
    if not (Path(name).is_dir() or name in (*BASELINES, "expert") or ":" in name or is_recording(name)):
        raise DeployError(
            explain(
                "no such policy",
                given=name,
                allowed="a run folder, null, random, expert, module:attribute of a factory, ws://HOST:PORT, FILE.mcap",
                mend="train one first, or correct the path",
            )
        )
    if is_exported(name):
        spec = read_document(name)["spec"]
        _refuse_goal(name, spec.get("goal") or spec.get("goal_cameras"))
    elif Path(name).is_dir():
        _refuse_goal(name, _checkpoint(Path(name)).document("policy")["parameters"].get("goal"))


def _refuse_goal(name: str, goal: object) -> None:
    """Nothing in the daemon says what is wanted, and a policy must not find out while the arm is moving."""
    if goal:
        raise DeployError(
            explain(
                f"the policy {name} reads a goal, and the daemon has none to give",
                given=f"goal={goal}",
                mend="deploy a policy without a goal; evaluate this one with: robopolicy eval",
            )
        )


def cameras_of(name: str, card: Embodiment, remote: RemoteConfig | None = None) -> tuple[str, ...]:
    """Cameras that the policy of that name reads, without building it; checks its embodiment on the way.

    Args:
        name: As for :func:`build_policy`; a policy server is asked.
        card: The robot.
        remote: How it is asked.

    Raises:
        CheckpointError: the run folder holds no sound checkpoint.
        EmbodimentMismatchError: it was trained for another robot.
        DeployError: the name means nothing.
    """
    check_policy(name)
    if is_remote(name):
        from robopolicy.deploy.remote_policy import RemotePolicy

        with RemotePolicy(card, name, remote) as asked:
            return asked.spec.cameras
    if not Path(name).is_dir():
        return ()
    if is_exported(name):
        return exported_cameras(name, card)
    stored = _checkpoint(Path(name))
    views = stored_views(stored.document("policy"))
    if views is not None:
        return tuple(views[find_view(views, card, where=f"the policy {name}")].cameras.values())
    trained = Embodiment.from_dict(stored.document("embodiment"))
    card.require_same(trained, mine=f"the robot {card.name}", theirs=f"the policy {name}")
    return tuple(stored.document("policy")["parameters"].get("cameras") or ())


def _checkpoint(path: Path) -> Checkpoint:
    from robopolicy import checkpoint

    return checkpoint.load(checkpoint.find(path))
