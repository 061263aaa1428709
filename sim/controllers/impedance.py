"""Cartesian impedance in simulation: the arm as a damped spring between its TCP and the commanded pose.

Per step of the physics, with pose error ``e`` [6], twist error ``w_d - w`` and Jacobian ``J``::

    tau = J^T (K e + D (w_d - w)) + N^T (Kn (q_d - q) + Dn (dq_d - dq)) + h(q, dq)

``K = diag(k_t, k_t, k_t, k_r, k_r, k_r)``, ``D = zeta (L^1/2 K^1/2 + K^1/2 L^1/2)`` with the inertia ``L`` at the TCP
(the factorised damping of Albu-Schaeffer et al., "Cartesian Impedance Control of Redundant Robots", ICRA 2003), ``N``
the dynamically consistent null space (Khatib 1987), ``h`` Coriolis forces and the gravity that the model does not
compensate. The position servos' gains are taken out of the model and their actuators carry the torques, so the motors'
limits hold.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.control.kinematics import Kinematics, rotation_error
from robopolicy.sim.scene import Scene

__all__ = ["CartesianImpedance"]

POSTURE_N_M_RAD = 20.0
"""Stiffness of the null space: it only has to keep the elbow where inverse kinematics wants it."""

Array = NDArray[np.floating]


class CartesianImpedance:
    """Replaces the position servos of one arm. Changes the gains in the scene's model for as long as it lives.

    Args:
        scene: Of a robot of one arm.
        kinematics: Of its card.
        default: [2] stiffness (N/m, N m/rad) until a chunk says otherwise.
        damping_ratio: 1 is critical.
    """

    def __init__(self, scene: Scene, kinematics: Kinematics, default: Array, damping_ratio: float):
        self._scene, self._kinematics, self._zeta = scene, kinematics, damping_ratio
        self._default = np.asarray(default, float)
        model = scene.model
        self._motors = scene.actuator[scene.arm]
        model.actuator_gainprm[self._motors, 0] = 1.0
        model.actuator_biasprm[self._motors, :3] = 0.0
        model.actuator_ctrllimited[self._motors] = 0
        self._site = next(iter(scene.tcp_site.values()))
        self._jacobian = np.zeros((6, model.nv))
        self._solved = np.zeros((6, model.nv))
        self.begin()

    def begin(self) -> None:
        """Back to the default stiffness."""
        self._time_ns, self._values = np.zeros(1), self._default[None]

    def follow(self, time_ns: NDArray[np.int64], values: Array) -> None:
        """Stiffness [H, 2] to be in force at ``time_ns`` [H]; held before the first and after the last."""
        self._time_ns, self._values = np.asarray(time_ns, float), np.asarray(values, float)

    def stiffness(self, time_ns: int) -> Array:
        """[2] in force."""
        return np.array([np.interp(time_ns, self._time_ns, column) for column in self._values.T])

    def drive(
        self,
        data: mujoco.MjData,
        path: Array,
        time_ns: int,
        sample: Callable[[mujoco.MjData], None] | None = None,
    ) -> None:
        """Step the physics along setpoints.

        Args:
            data: State.
            path: [substeps + 1, J] setpoints in the units of the actuators, the first reached already.
            time_ns: When the last is reached.
            sample: Called after every step.
        """
        scene, model = self._scene, self._scene.model
        stiffness = np.repeat(self.stiffness(time_ns), 3)
        rate = (path[1] - path[0])[scene.arm] / model.opt.timestep
        damping = None
        for target in path[1:]:
            mujoco.mj_step1(model, data)
            jacobian = self._update(data)
            weighted, inertia = self._inertia(data, jacobian)
            if damping is None:
                damping = _damping(inertia, stiffness, self._zeta)
            data.ctrl[scene.actuator] = target
            data.ctrl[self._motors] = self._torque(
                data, target[scene.arm], rate, jacobian, weighted, inertia, stiffness, damping
            )
            mujoco.mj_step2(model, data)
            if sample is not None:
                sample(data)

    def _update(self, data: mujoco.MjData) -> Array:
        mujoco.mj_jacSite(self._scene.model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._scene.joint_qvel]

    def _inertia(self, data: mujoco.MjData, jacobian: Array) -> tuple[Array, Array]:
        """(M^-1 J^T [n, 6], inertia at the TCP [6, 6])."""
        only = np.zeros_like(self._jacobian)
        only[:, self._scene.joint_qvel] = jacobian
        mujoco.mj_solveM(self._scene.model, data, self._solved, only)
        weighted = self._solved[:, self._scene.joint_qvel].T
        mobility = jacobian @ weighted
        # near a singularity the inertia grows without bound, and so would the damping
        return weighted, np.linalg.inv(mobility + 1e-3 * np.eye(6))

    def _torque(
        self,
        data: mujoco.MjData,
        joints: Array,
        rate: Array,
        jacobian: Array,
        weighted: Array,
        inertia: Array,
        stiffness: Array,
        damping: Array,
    ) -> Array:
        scene, site = self._scene, self._site
        q, dq = data.qpos[scene.joint_qpos], data.qvel[scene.joint_qvel]
        position, rotation = self._kinematics.forward(joints)
        measured = data.site_xmat[site].reshape(3, 3)
        error = np.concatenate([position - data.site_xpos[site], rotation_error(rotation, measured)])
        task = stiffness * error + damping @ (jacobian @ (rate - dq))
        posture = POSTURE_N_M_RAD * (joints - q) + 2 * np.sqrt(POSTURE_N_M_RAD * 0.2) * (rate - dq)
        posture -= jacobian.T @ (inertia @ (weighted.T @ posture))
        still = scene.joint_qvel
        return jacobian.T @ task + posture + data.qfrc_bias[still] - data.qfrc_gravcomp[still]


def _damping(inertia: Array, stiffness: Array, zeta: float) -> Array:
    """[6, 6] of inertia [6, 6] and a diagonal stiffness [6]."""
    values, vectors = np.linalg.eigh(inertia)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    spring = np.sqrt(stiffness)
    return np.asarray(zeta * (root * spring + spring[:, None] * root))
