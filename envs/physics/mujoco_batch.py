"""MuJoCo on the CPU: `mujoco.batch` steps the worlds on C++ threads, bit for bit dm_control's physics.

State and readings are MuJoCo's own float64 arrays, shared with torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray
from torch import Tensor

from envs.physics.base import Physics
from rlreg.errors import UserError

_VELOCITY, _ACCELERATION = int(mujoco.mjtStage.mjSTAGE_VEL), int(mujoco.mjtStage.mjSTAGE_ACC)
_NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE)
_ACTUATION = int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
# Readings that come of the acceleration stage, whose refresh at a reset takes the constraint solver too.
_ACCELERATION_FIELDS = {"qacc", "actuator_force", "qfrc_actuator", "qfrc_constraint", "cacc", "cfrc_int", "cfrc_ext"}


class MujocoBatch(Physics):
    """`num_worlds` simulations of `model` in float64 on the CPU.

    The result does not depend on the number of threads. Not to be used from several Python threads at once.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        substeps: int = 1,
        model_fields: Sequence[str] = (),
        legacy_step: bool = True,
        contact_forces: bool = False,
        threads: int = 1,
    ) -> None:
        """`model_fields`: those that differ between worlds; each is copied once a call.

        `contact_forces` are read after every control step: MuJoCo computes them for one world at a time, here in 12 to
        18 us per world, 3 to 5 percent of a step of the tasks that need them.

        'hfield_data', which MuJoCo keeps once per model, takes a model per world, and then no other field is per world.
        """
        self.model, self.num_worlds, self.substeps = model, num_worlds, substeps
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self.model_fields, self.legacy_step = tuple(model_fields), legacy_step
        # Contact forces are computed from all that a world's last step has left: its MjData is kept for them.
        self._batch = Batch(model, num_worlds, threads, persistent=contact_forces)
        self._last = mujoco.MjData(model) if contact_forces else None
        self._contact_forces = torch.zeros(num_worlds, model.nbody, 6, dtype=torch.float64)
        self._stage = _VELOCITY if legacy_step else _NO_STAGE
        self.qpos, self.qvel, self.act, self.ctrl, self.time = (
            torch.from_numpy(self._batch.bind(name)) for name in ("qpos", "qvel", "act", "ctrl", "time")
        )
        self._data: dict[str, Tensor] = {}
        self._models: list[mujoco.MjModel] | None = None
        if "hfield_data" in self.model_fields:
            if len(self.model_fields) > 1:
                raise UserError(f"'hfield_data' per world excludes other fields: {', '.join(self.model_fields)}")
            self._models = [copy.copy(model) for _ in range(num_worlds)]
            self._batch.set_models(self._models)
            terrains = torch.from_numpy(model.hfield_data).repeat(num_worlds, 1)
            self._fields = {"hfield_data": terrains}
        else:
            self._fields = {name: _shared(self._batch.expand(name)) for name in self.model_fields}
        self._needs_acceleration = bool((model.sensor_needstage == _ACCELERATION).any())
        self._flags: NDArray | None = None
        self._failed = np.zeros(num_worlds, bool)
        self._all = np.arange(num_worlds, dtype=np.int32)
        self._batch.reset(stage=_NO_STAGE)

    # ------------------------------------------------------------- readings

    def data(self, name: str) -> Tensor:
        if name not in self._data:
            try:
                self._data[name] = _shared(self._batch.bind(name))
            except (AttributeError, ValueError) as error:
                raise UserError(f"'{name}' is no reading of mujoco.batch ({error})") from error
            self._needs_acceleration |= name in _ACCELERATION_FIELDS
        return self._data[name]

    def field(self, name: str) -> Tensor:
        if name not in self._fields:
            raise UserError(f"'{name}' is not per world here (per world: {', '.join(self.model_fields) or 'none'})")
        return self._fields[name]

    # ------------------------------------------------------------- episodes

    def reset(self, mask: Tensor) -> None:
        ids = self._ids(mask)
        self._batch.reset(ids, stage=_NO_STAGE)
        self._failed[ids] = False
        self._contact_forces[mask] = 0.0

    def forward(self, mask: Tensor, actuation: bool = False) -> None:
        ids = self._ids(mask)
        if self._models:
            self._forward_own_models(ids, actuation)
        elif not self._needs_acceleration:
            self._call(self._batch.forward, ids, _VELOCITY)
        elif actuation:
            self._call(self._batch.forward, ids, _ACCELERATION)
        else:
            if self._flags is None:
                self._flags = self._batch.expand("opt.disableflags").reshape(self.num_worlds)
            self._flags[ids] |= _ACTUATION
            self._call(self._batch.forward, ids, _ACCELERATION)
            self._flags[ids] &= ~_ACTUATION

    def _forward_own_models(self, ids: NDArray[np.int32], actuation: bool) -> None:
        """`forward` where each world has a model of its own: what was written to its terrain counts from here on."""
        models, terrains = self._models, self._fields["hfield_data"].numpy()
        for i in ids:
            models[i].hfield_data[:] = terrains[i]
            models[i].opt.disableflags |= 0 if actuation else _ACTUATION
        self._batch.set_models(models)
        self._call(self._batch.forward, ids, _ACCELERATION)
        for i in ids:
            models[i].opt.disableflags &= ~_ACTUATION
        self._batch.set_models(models)

    def step(self, mask: Tensor, nstep: int) -> None:
        self._call(self._batch.step, self._ids(mask), nstep, self._stage)

    # ------------------------------------------------------------- stepping

    def control_step(self, ctrl: Tensor | None = None) -> None:
        if ctrl is not None:
            self.ctrl.copy_(ctrl)
        self._call(self._batch.step, None, self.substeps, self._stage)
        if self._last is not None:
            self._read_contact_forces()

    def contact_forces(self) -> Tensor:
        if self._last is None:
            raise UserError("contact forces are read where they are asked for at construction")
        return self._contact_forces

    def _read_contact_forces(self) -> None:
        forces = self._contact_forces.numpy()
        for world in range(self.num_worlds):
            self._batch.get_data(world, self._last)
            mujoco.mj_rnePostConstraint(self.model, self._last)
            forces[world] = self._last.cfrc_ext

    def bad(self) -> Tensor:
        return torch.from_numpy(self._failed | self._batch.warning.any(axis=(1, 2)))

    def any_bad(self) -> bool:
        return bool(np.count_nonzero(self._batch.warning)) or bool(np.count_nonzero(self._failed))

    def _call(self, function: Any, ids: NDArray | None, *args: int) -> None:
        """A failing world keeps its state of before and is told by `bad`; the others go on."""
        try:
            function(ids, *args)
        except SimulationError as error:
            self._failed[error.ids] = True

    def _ids(self, mask: Tensor) -> NDArray[np.int32]:
        return self._all[mask.numpy()]

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """{'rows': (W, size of mjSTATE_INTEGRATION) float64, 'fields': the per-world model fields, 'failed': (W,)}."""
        return {
            "rows": self._batch.state.copy(),
            "fields": {name: values.numpy().copy() for name, values in self._fields.items()},
            "failed": self.bad().numpy().copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batch.state[:] = state["rows"]
        for name, values in self._fields.items():
            values.copy_(torch.from_numpy(np.asarray(state["fields"][name])))
        self._batch.warning[:] = 0
        self._failed[:] = state["failed"]
        self.forward(torch.ones(self.num_worlds, dtype=torch.bool), actuation=True)


def _shared(array: NDArray) -> Tensor:
    """`array` as a tensor on the same memory. Torch has no read-only tensors and would warn of those."""
    view = array.view()
    view.flags.writeable = True
    return torch.from_numpy(view)
