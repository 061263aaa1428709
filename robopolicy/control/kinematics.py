"""Forward kinematics, Jacobian and damped least-squares inverse kinematics of an embodiment card, in plain numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.native import native
from robopolicy.embodiment import Embodiment
from robopolicy.errors import EmbodimentError, explain
from robopolicy.rotations import matrix_to_axis_angle, quaternion_to_matrix

__all__ = ["IKSolution", "Kinematics", "rotation_error"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class IKSolution:
    """Result of :meth:`Kinematics.solve`.

    Attributes:
        q_arm: [n] joint positions, inside the joint limits.
        position_error_m: Distance left to the target.
        rotation_error_rad: Angle left to the target.
        iterations: Steps taken.
        converged: Both errors are within their tolerances.
    """

    q_arm: Array
    position_error_m: float
    rotation_error_rad: float
    iterations: int
    converged: bool


class Kinematics:
    """Serial chain of revolute joints with a tool centre point (TCP). All poses are in the robot's base frame.

    Each link transform is affine in (cos q, sin q), so it is kept as three constant matrices by Rodrigues' formula:
    ``T(q) = M0 + cos(q) M1 + sin(q) M2``.

    Args:
        embodiment: Card of one arm with chain, TCP and limits; of a robot with several arms,
            :meth:`Embodiment.single_arm` gives one. The arm may carry a gripper, a hand, or nothing.

    Raises:
        EmbodimentError: a card of several arms, or without a chain.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        _require_chain(embodiment)
        self.embodiment = embodiment
        names = embodiment.joints.names
        self.arm: NDArray[np.intp] = np.array([names.index(link.joint) for link in embodiment.chain])
        """[n] positions of the arm joints in a command vector [J]."""
        end = embodiment.arm().end_effector
        self.end: NDArray[np.intp] = np.array([names.index(name) for name in end], dtype=np.intp)
        """Positions of the gripper or of the hand's joints in a command vector; empty for a bare arm."""
        self._gripper = int(self.end[0]) if embodiment.gripper else None
        self.lower: Array = embodiment.joints.lower[self.arm]
        self.upper: Array = embodiment.joints.upper[self.arm]
        home = embodiment.home_position[self.arm] if embodiment.home else (self.lower + self.upper) / 2
        self.home: Array = home
        count = len(embodiment.chain)
        self._axis = np.array([link.axis for link in embodiment.chain], dtype=float)
        self._axis /= np.linalg.norm(self._axis, axis=1, keepdims=True)
        self._constant, self._cosine, self._sine = (np.zeros((count, 4, 4)) for _ in range(3))
        for i, link in enumerate(embodiment.chain):
            fixed = _transform(link.position_m, link.quaternion)
            x, y, z = axis = self._axis[i]
            along = np.outer(axis, axis)
            skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            self._constant[i] = fixed @ _block(along, 1.0)
            self._cosine[i] = fixed @ _block(np.eye(3) - along, 0.0)
            self._sine[i] = fixed @ _block(skew, 0.0)
        self._tcp = _transform(*embodiment.tcp)
        self.chain = native and native.Chain(
            count, self._constant, self._cosine, self._sine, self._tcp, self._axis, self.lower, self.upper, self.home
        )
        """The compiled chain, or None."""
        self._eye6 = np.eye(6)
        self._lay_out_state(end)

    def _lay_out_state(self, end: tuple[str, ...]) -> None:
        """Where the parts of ``state`` are; one position alone stays an integer, which numpy copies faster."""
        self._pose_state = self.embodiment.state_space == "ee_pose"
        if not self._pose_state:
            return
        state = self.embodiment.state
        self._state_position = state.select("ee_position")
        self._state_rotation = state.select("ee_rotation")
        places = np.array([state.index(name) for name in end], dtype=np.intp)
        self._state_end: Any = int(places[0]) if len(end) == 1 else places
        self._joint_end: Any = int(self.end[0]) if len(end) == 1 else self.end
        self._state_width = len(state)
        self._compiled_state = native and native.TcpState(
            self.chain,
            len(self.embodiment.joints),
            len(state),
            self.arm.tolist(),
            self.end.tolist(),
            self._state_position.tolist(),
            self._state_rotation.tolist(),
            places.tolist(),
        )

    @property
    def gripper(self) -> int:
        """Position of the gripper in a command vector [J].

        Raises:
            EmbodimentError: the arm has none.
        """
        if self._gripper is None:
            raise EmbodimentError(
                explain(f"the arm of '{self.embodiment.name}' has no gripper", mend="use Kinematics.end for a hand")
            )
        return self._gripper

    @property
    def reach_m(self) -> Array:
        """[n]: no configuration brings the TCP further than this from the joint's origin (sum of link lengths)."""
        lengths = [math.dist(link.position_m, (0, 0, 0)) for link in self.embodiment.chain[1:]]
        lengths.append(math.dist(self.embodiment.tcp[0], (0, 0, 0)))
        return np.cumsum(lengths[::-1])[::-1].copy()

    def _links(self, q_arm: Array) -> Array:
        angle = q_arm[..., None, None]
        return self._constant + np.cos(angle) * self._cosine + np.sin(angle) * self._sine

    def forward(self, q_arm: ArrayLike) -> tuple[Array, Array]:
        """TCP pose.

        Args:
            q_arm: [n] rad.

        Returns:
            position [3] m, rotation [3, 3].
        """
        if self.chain is not None:
            position, rotation = np.empty(3), np.empty((3, 3))
            self.chain.forward(np.ascontiguousarray(q_arm, dtype=float), position, rotation)
            return position, rotation
        pose = np.eye(4)
        for link in self._links(np.asarray(q_arm, dtype=float)):
            pose = pose.dot(link)
        pose = pose.dot(self._tcp)
        return pose[:3, 3], pose[:3, :3]

    def positions(self, q_arm: ArrayLike) -> Array:
        """TCP positions of many configurations. [N, n] rad -> [N, 3] m."""
        links = self._links(np.asarray(q_arm, dtype=float))
        point = np.broadcast_to(self._tcp[:, 3:], (len(links), 4, 1))
        for i in range(links.shape[1] - 1, -1, -1):
            point = links[:, i] @ point
        return point[:, :3, 0]

    def poses(self, q_arm: ArrayLike) -> tuple[Array, Array]:
        """TCP poses of many configurations. [N, n] rad -> positions [N, 3] m, rotations [N, 3, 3]."""
        links = self._links(np.asarray(q_arm, dtype=float))
        pose = np.broadcast_to(self._tcp, (len(links), 4, 4))
        for i in range(links.shape[1] - 1, -1, -1):
            pose = links[:, i] @ pose
        return pose[:, :3, 3], pose[:, :3, :3]

    def link_poses(self, q_arm: ArrayLike) -> Array:
        """Frames of the base and of every link of many configurations. [N, n] rad -> [N, 1 + n, 4, 4]."""
        links = self._links(np.asarray(q_arm, dtype=float))
        poses = np.empty((len(links), links.shape[1] + 1, 4, 4))
        poses[:, 0] = np.eye(4)
        for i in range(links.shape[1]):
            poses[:, i + 1] = poses[:, i] @ links[:, i]
        return poses

    def jacobian(self, q_arm: ArrayLike) -> Array:
        """Geometric Jacobian of the TCP. [n] rad -> [6, n]: rows linear (m/rad), then angular (rad/rad)."""
        return self.pose_and_jacobian(q_arm)[2]

    def pose_and_jacobian(self, q_arm: ArrayLike) -> tuple[Array, Array, Array]:
        """Both in one pass. [n] rad -> position [3], rotation [3, 3], Jacobian [6, n]."""
        links = self._links(np.asarray(q_arm, dtype=float))
        frames = np.empty_like(links)
        pose = frames[0] = links[0]
        for i in range(1, len(links)):
            pose = np.dot(pose, links[i], out=frames[i])
        pose = pose.dot(self._tcp)
        # A joint's axis is the same before and after its own rotation, so the rotated frame serves.
        axis = (frames[:, :3, :3] @ self._axis[:, :, None])[:, :, 0].T
        arm = pose[:3, 3:] - frames[:, :3, 3].T
        jacobian = np.empty((6, len(links)))
        jacobian[0] = axis[1] * arm[2] - axis[2] * arm[1]
        jacobian[1] = axis[2] * arm[0] - axis[0] * arm[2]
        jacobian[2] = axis[0] * arm[1] - axis[1] * arm[0]
        jacobian[3:] = axis
        return pose[:3, 3], pose[:3, :3], jacobian

    def tcp_state(self, joint_position: ArrayLike) -> Array:
        """Command-channel positions [J] -> the card's ``state`` vector [S].

        That is TCP position, rotation 6-D and gripper or hand; on a card with ``state_space: joint_position`` the
        command channels themselves.
        """
        joints = np.asarray(joint_position, dtype=float)
        if not self._pose_state:
            return self._joint_state(joints)
        state = np.empty(self._state_width)
        if self._compiled_state is not None:
            self._compiled_state.at(np.ascontiguousarray(joints), state)
            return state
        position, rotation = self.forward(joints[self.arm])
        state[self._state_position] = position
        state[self._state_rotation] = np.concatenate([rotation[:, 0], rotation[:, 1]])
        state[self._state_end] = joints[self._joint_end]
        return state

    def _joint_state(self, joints: Array) -> Array:
        if self.embodiment.state_space == "custom":
            raise EmbodimentError(
                explain(
                    f"the state of '{self.embodiment.name}' is described by its data only",
                    given="state_space: custom",
                    allowed=("ee_pose", "joint_position"),
                )
            )
        return joints.copy()

    def solve_step(
        self,
        q_arm: ArrayLike,
        target_position: ArrayLike,
        target_rotation: ArrayLike,
        *,
        damping: float = 0.02,
        max_position_error_m: float = 0.3,
        max_rotation_error_rad: float = 1.2,
        nullspace: float = 0.0,
    ) -> Array:
        """One damped least-squares step: ``dq = J^T (J J^T + damping^2 I)^-1 e`` (Wampler 1986; Nakamura 1986).

        Args:
            q_arm: [n] rad, where the step starts (the commanded joints, not the measured ones).
            target_position: [3] m.
            target_rotation: [3, 3].
            damping: Larger is calmer near singularities and slower elsewhere.
            max_position_error_m: Longer position errors are shortened to this.
            max_rotation_error_rad: Longer rotation errors are shortened to this.
            nullspace: Share of the way to the home posture taken in this step, in the null space of the task; only
                redundant arms have one.

        Returns:
            [n] rad, inside the joint limits.
        """
        q = np.asarray(q_arm, dtype=float)
        limits = (max_position_error_m, max_rotation_error_rad)
        step, _, _ = self._step(q, target_position, target_rotation, damping, limits, nullspace)
        return self._clamp(q + step)

    def solve(
        self,
        q_arm: ArrayLike,
        target_position: ArrayLike,
        target_rotation: ArrayLike,
        *,
        iterations: int = 50,
        damping: float = 0.02,
        max_position_error_m: float = 0.3,
        max_rotation_error_rad: float = 1.2,
        nullspace: float = 0.0,
        position_tolerance_m: float = 1e-5,
        rotation_tolerance_rad: float = 1e-4,
    ) -> IKSolution:
        """Repeat :meth:`solve_step` until both errors are within tolerance or ``iterations`` are spent.

        The pull to the home posture acts in the first step only, so that it cannot keep the task from converging.
        """
        limits = (max_position_error_m, max_rotation_error_rad)
        tolerances = (position_tolerance_m, rotation_tolerance_rad)
        if self.chain is not None:
            out = np.empty(len(self.arm))
            goal = (np.ascontiguousarray(x, dtype=float) for x in (q_arm, target_position, target_rotation))
            found = self.chain.solve(*goal, iterations, damping, *limits, nullspace, *tolerances, out)
            return IKSolution(out, *found)
        q = np.asarray(q_arm, dtype=float)
        for taken in range(iterations):
            pull = nullspace if taken == 0 else 0.0
            step, distance, angle = self._step(q, target_position, target_rotation, damping, limits, pull)
            if distance <= position_tolerance_m and angle <= rotation_tolerance_rad and not pull:
                return IKSolution(q, distance, angle, taken, True)
            q = self._clamp(q + step)
        position, rotation = self.forward(q)
        distance = _norm(np.asarray(target_position, dtype=float) - position)
        angle = _norm(rotation_error(np.asarray(target_rotation, dtype=float), rotation))
        converged = distance <= position_tolerance_m and angle <= rotation_tolerance_rad
        return IKSolution(q, distance, angle, iterations, converged)

    def _clamp(self, q: Array) -> Array:
        return np.minimum(np.maximum(q, self.lower), self.upper)

    def _step(
        self,
        q: Array,
        target_position: ArrayLike,
        target_rotation: ArrayLike,
        damping: float,
        limits: tuple[float, float],
        nullspace: float,
    ) -> tuple[Array, float, float]:
        """Joint step [n], and the position and rotation error *before* it."""
        position, rotation, jacobian = self.pose_and_jacobian(q)
        error = np.empty(6)
        error[:3] = np.asarray(target_position, dtype=float) - position
        error[3:] = rotation_error(np.asarray(target_rotation, dtype=float), rotation)
        distance, angle = _norm(error[:3]), _norm(error[3:])
        if distance > limits[0]:
            error[:3] *= limits[0] / distance
        if angle > limits[1]:
            error[3:] *= limits[1] / angle
        gram = jacobian.dot(jacobian.T) + damping * damping * self._eye6
        if nullspace and len(q) > 6:
            pull = nullspace * (self.home - q)
            # Pull plus the task step that undoes its effect on the TCP: the same as projecting, with one solve.
            error -= jacobian.dot(pull)
            return pull + jacobian.T.dot(np.linalg.solve(gram, error)), distance, angle
        return jacobian.T.dot(np.linalg.solve(gram, error)), distance, angle


def rotation_error(target: Array, current: Array) -> Array:
    """Rotation vector in the base frame that turns ``current`` into ``target``. [3, 3], [3, 3] -> [3] rad."""
    delta = target.dot(current.T)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = delta.tolist()
    x, y, z = 0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)
    sine = math.sqrt(x * x + y * y + z * z)
    cosine = 0.5 * (xx + yy + zz - 1.0)
    if sine < 1e-6 and cosine < 0:
        # Half a turn: the skew part vanishes and with it the axis; the quaternion still has it.
        return matrix_to_axis_angle(delta)
    scale = math.atan2(sine, cosine) / sine if sine > 1e-12 else 1.0
    return np.array([x * scale, y * scale, z * scale])


def _require_chain(embodiment: Embodiment) -> None:
    if len(embodiment.arms) != 1:
        names = [arm.name for arm in embodiment.arms]
        raise EmbodimentError(
            explain(
                f"kinematics are those of one arm, '{embodiment.name}' has {len(names)}",
                given=names or None,
                mend="take one: Kinematics(embodiment.single_arm(name))" if names else "use a card with an arm",
            )
        )
    if not embodiment.chain:
        raise EmbodimentError(
            explain(
                f"the kinematics of '{embodiment.name}' are not known: its card has no chain",
                mend="add chain and tcp to the arm in its YAML",
            )
        )


def _norm(vector: Array) -> float:
    return math.sqrt(float(vector.dot(vector)))


def _block(rotation: Array, corner: float) -> Array:
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = rotation
    matrix[3, 3] = corner
    return matrix


def _transform(position: ArrayLike, quaternion: ArrayLike) -> Array:
    matrix = _block(quaternion_to_matrix(np.asarray(quaternion, dtype=float)), 1.0)
    matrix[:3, 3] = position
    return matrix
