"""The interface of a physics engine: W simulations ("worlds") of one MuJoCo model as tensors.

A task holds live views of an engine's tensors, taken once by `BatchedTask.bind`, and knows neither engine nor device.
Nothing here waits for the device: whatever happens to some worlds only is told by a mask (W,) bool, and every shape is
static.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import torch
from torch import Tensor

# What the rows of an MjData or MjModel field stand for, by the field's prefix.
_ROWS = {kind: kind for kind in ("geom", "site", "light", "tendon", "actuator", "hfield", "body", "dof", "mocap")}
_ROWS |= {"cam": "camera", "jnt": "joint", "ten": "tendon"}
_BODY_FIELDS = {"xpos", "xquat", "xmat", "xipos", "ximat", "subtree", "cvel", "cfrc", "cacc", "cinert", "xfrc"}


class Physics(ABC):
    """W worlds of `model`, advanced by `substeps` physics steps a control step.

    State tensors are live and may be written between calls: a write is the world's state at its next call. Readings
    (`data`) are live too and are refreshed by `forward`, `step` and `control_step`; they are never written.
    """

    model: mujoco.MjModel
    """The model as compiled, on the host: names, sizes, ranges. Per-world values are in `field`."""
    num_worlds: int
    """W."""
    substeps: int
    device: torch.device
    dtype: torch.dtype
    """Of all real-valued tensors: float64 on the CPU engine, float32 on a GPU."""

    qpos: Tensor
    """(W, nq)."""
    qvel: Tensor
    """(W, nv)."""
    act: Tensor
    """(W, na): actuator activations."""
    ctrl: Tensor
    """(W, nu): controls as set, not clamped."""
    time: Tensor
    """(W,): seconds since the reset."""

    # ------------------------------------------------------------- readings

    @abstractmethod
    def data(self, name: str) -> Tensor:
        """The live tensor (W, *shape in MjData) of an MjData field, such as 'xpos', 'sensordata' or 'ncon' (W,).

        The same tensor at every call, so ask once, before the first step: an engine computes what was asked for.
        Raises `UserError` for a field that the engine does not have.
        """

    @abstractmethod
    def field(self, name: str) -> Tensor:
        """The live tensor (W, *shape in MjModel) of one of the per-world model fields, such as 'geom_pos'.

        Writable; a write counts from the next call on. Raises `UserError` for a field not named at construction.
        """

    def named(self, name: str, key: str) -> Tensor:
        """One object's live part of an MjData or per-world MjModel field, as `named.data.xpos[key]` in dm_control.

        (W, ...) without the objects' axis; for 'qpos', 'qvel', 'act' and 'sensordata' (W, n), the object's n values.
        """
        values = self.field(name) if name in self.model_fields else self._data_or_state(name)
        where = self.index(name, key)
        return values[:, where]

    def _data_or_state(self, name: str) -> Tensor:
        return getattr(self, name) if name in ("qpos", "qvel", "act", "ctrl") else self.data(name)

    def index(self, name: str, key: str) -> int | slice:
        """Where object `key` is on axis 1 of field `name`: a row, or a slice of 'qpos', 'qvel', 'act', 'sensordata'."""
        model = self.model
        if name == "sensordata":
            sensor = model.sensor(key)
            return slice(sensor.adr[0], sensor.adr[0] + sensor.dim[0])
        if name in ("qpos", "qvel"):
            start = int((model.joint(key).qposadr if name == "qpos" else model.joint(key).dofadr)[0])
            kind = model.joint(key).type[0]
            sizes = {mujoco.mjtJoint.mjJNT_FREE: (7, 6), mujoco.mjtJoint.mjJNT_BALL: (4, 3)}
            return slice(start, start + sizes.get(mujoco.mjtJoint(kind), (1, 1))[name == "qvel"])
        if name == "act":
            actuator = model.actuator(key)
            return slice(actuator.actadr[0], actuator.actadr[0] + actuator.actnum[0])
        if name == "ctrl":
            return model.actuator(key).id
        prefix = name.split("_")[0]
        kind = "body" if prefix in _BODY_FIELDS else _ROWS[prefix]
        if kind == "dof":
            return int(model.joint(key).dofadr[0])
        if kind == "mocap":
            return int(model.body(key).mocapid[0])
        return getattr(model, kind)(key).id

    def indices(self, name: str, keys: Sequence[str]) -> Tensor:
        """`index` of several objects, in order, as an int64 tensor (n,) on the device; slices are unrolled."""
        rows: list[int] = []
        for key in keys:
            where = self.index(name, key)
            rows += range(where.start, where.stop) if isinstance(where, slice) else [where]
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    # ------------------------------------------------------------- episodes

    @abstractmethod
    def reset(self, mask: Tensor) -> None:
        """Put the worlds of `mask` (W,) to the model's default state, warm start, controls and clock included.

        Per-world model fields stay. Readings are not refreshed: a `forward` has to follow.
        """

    def set_state(
        self, mask: Tensor, qpos: Tensor | None = None, qvel: Tensor | None = None, act: Tensor | None = None
    ) -> None:
        """Write states (W, nq), (W, nv), (W, na) in the worlds of `mask`; the others' rows are not looked at."""
        for live, value in ((self.qpos, qpos), (self.qvel, qvel), (self.act, act)):
            if value is not None:
                write(live, mask, value)

    @abstractmethod
    def forward(self, mask: Tensor, actuation: bool = False) -> None:
        """Refresh the readings of the worlds of `mask` for their states; others keep theirs.

        Without actuation, as dm_control does after a reset; Gymnasium's tasks have it.
        """

    @abstractmethod
    def step(self, mask: Tensor, nstep: int) -> None:
        """`nstep` physics steps in the worlds of `mask`, with the controls as they are: to let a body settle."""

    def retry(self, mask: Tensor, attempt: Callable[[Any, Tensor], Tensor], limit: int) -> Tensor:
        """Rejection sampling: `attempt(k, pending)` proposes in the worlds of `pending` (W,) and returns the rejected.

        Begins with the worlds of `mask` and goes on with those rejected, at most `limit` times. Returns (W,) bool: the
        worlds without an accepted proposal, which keep their last. k numbers the attempt (an int, or a 0-d tensor
        where the loop is part of a captured graph): what is drawn must depend on it and never on the other worlds.
        """
        pending = mask
        for k in range(limit):
            if not pending.any():
                break
            pending = attempt(k, pending) & pending
        return pending

    # ------------------------------------------------------------- stepping

    @abstractmethod
    def control_step(self, ctrl: Tensor | None = None) -> None:
        """Advance every world by one control step of `substeps` physics steps, with controls (W, nu) if given.

        With `legacy_step`, dm_control's order: readings of positions and velocities belong to the new state, those of
        accelerations and forces to the last substep. Without it, all readings are one substep behind the state, as
        after `mj_step`.
        """

    @abstractmethod
    def bad(self) -> Tensor:
        """(W,) bool: worlds in which MuJoCo gave up or warned (diverged states, full buffers) since their reset."""

    def any_bad(self) -> bool:
        """Whether there is one, where looking does not hold up the device."""
        return bool(self.bad().any())

    def contact_forces(self) -> Tensor:
        """(W, nbody, 6): external forces on the bodies (`cfrc_ext`) as of the last step, after mj_rnePostConstraint.

        Zero after a reset. Only of a task that has asked for them, see `BatchedTask.contact_forces`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not compute contact forces")

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of tensors, made of this engine's calls and tensor operations, in this engine's fastest form.

        An engine on a GPU may capture it as a graph: it is a pure program of static shapes that changes state in
        place. Arguments and results of a captured program are copied in and out.
        """
        return function

    # ---------------------------------------------------------------- state

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Numpy arrays: everything the next step depends on, warm start and per-world model fields included."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`, readings included as far as positions and velocities determine them."""

    def close(self) -> None:  # noqa: B027 (optional)
        """Release threads and memory."""

    model_fields: tuple[str, ...] = ()
    """The per-world model fields, as given at construction."""
    legacy_step: bool = True
    """Whether positions and velocities are read at the new state after a control step, as in dm_control."""


def write(live: Tensor, mask: Tensor, value: Tensor | float) -> None:
    """live[w] = value[w] where mask[w], in place: static shapes, nothing is waited for. `live` is (W, ...)."""
    live.copy_(torch.where(mask.view(-1, *[1] * (live.dim() - 1)), value, live))
