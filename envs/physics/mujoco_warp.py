"""MuJoCo on a GPU: `mujoco_warp` steps the worlds in float32, in CUDA graphs on torch's stream (extra `warp`).

State and readings are Warp's own arrays, shared with torch. On Warp's CPU device, which is for tests, the same programs
are recorded and replayed by Warp.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.physics.base import Physics, write
from rlreg.errors import UserError

_ACCELERATION = int(mujoco.mjtStage.mjSTAGE_ACC)
_SETTLING_BLOCK = 10  # physics steps of one graph of `step`
_STATE = ("qpos", "qvel", "act", "ctrl", "time", "qacc_warmstart")
_STATE += ("qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat")
_MAX_VALUE = 1e10  # mjMAXVAL: MuJoCo takes larger positions and velocities for diverged
# Fields of the model that no physics reads; mujoco_warp keeps one copy for all worlds, tasks may want one of each.
_FOR_TASKS_ONLY = ("geom_rgba", "mat_rgba", "light_pos")
_PLACING = ("geom_pos", "geom_quat", "body_pos", "body_quat")  # of which the poses of fixed geoms are made


def load_warp() -> Any:
    """The module `mujoco_warp`. Raises `UserError` where it is not installed."""
    try:
        import warp

        warp.config.quiet = True
        import mujoco_warp

        warp.init()
    except ImportError as error:
        raise UserError(f"env.backend=warp needs mujoco_warp ({error}): pip install 'rlreg[warp]'") from None
    return mujoco_warp


class MujocoWarp(Physics):
    """`num_worlds` simulations of `model` in float32 on a GPU.

    Two runs on a GPU differ in the last bits, since sums are taken in any order; less so with `deterministic`, which is
    mujoco_warp's own option. A world does not recover by itself from a diverged state, as in MuJoCo: it stays `bad`
    until its `reset`.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_worlds: int,
        substeps: int = 1,
        model_fields: Sequence[str] = (),
        legacy_step: bool = True,
        device: torch.device | str = "cuda",
        nconmax: int | None = None,
        njmax: int | None = None,
        deterministic: bool = False,
        continuous: bool = False,
    ) -> None:
        """`nconmax` and `njmax`: room for contacts and constraints per world; by default guesses (`check` tells).

        `continuous`: every write to a state is followed by a `forward` before the next control step, which can then go
        on from the readings of the last, as dm_control does, and saves one evaluation of positions and velocities.
        Raises `UserError` where mujoco_warp is missing, cannot simulate the model, or memory does not suffice.
        """
        self._mjw = load_warp()
        import warp as wp

        self._wp = wp
        self.model, self.num_worlds, self.substeps = model, num_worlds, substeps
        self.device, self.dtype = torch.device(device), torch.float32
        self.model_fields, self.legacy_step = tuple(model_fields), legacy_step
        self.nconmax, self.njmax = nconmax, njmax or _likely_constraints(model)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._where = wp.device_from_torch(self.device)
        with wp.ScopedDevice(self._where):
            self._m = self._put_model(deterministic)
            self._require_memory()
            self._d = self._mjw.make_data(model, nworld=num_worlds, nconmax=nconmax, njmax=self.njmax)
        rk4 = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        self._continues = continuous and legacy_step and not rk4

        self._state = {name: wp.to_torch(getattr(self._d, name)) for name in _STATE}
        self.qpos, self.qvel, self.act = (self._state[name] for name in ("qpos", "qvel", "act"))
        self.ctrl, self.time = self._state["ctrl"], self._state["time"]
        self._default = {name: values[:1].clone() for name, values in self._state.items()}
        self._overflow = wp.to_torch(self._d.overflow)
        self._data: dict[str, Tensor] = {}
        self._fields = {name: self._field(name) for name in self.model_fields}
        self._places = any(name in self.model_fields for name in _PLACING)
        self._sensors = self.data("sensordata")
        held = np.zeros(model.nsensordata, bool)  # what the last physics step has measured, and `step1` would erase
        for sensor in (model.sensor_needstage == _ACCELERATION).nonzero()[0]:
            start = model.sensor_adr[sensor]
            held[start : start + model.sensor_dim[sensor]] = True
        from envs.physics import warp_kernels

        self._kernels = warp_kernels
        with wp.ScopedDevice(self._where):
            self._held = wp.array(held, dtype=bool)
            self._sensors_before = wp.zeros_like(self._d.sensordata)
            self._ncon = wp.zeros(num_worlds, dtype=int)
        self._counts = False  # whether contacts are counted, which somebody has to ask for
        self._graphs: dict[str, Any] = {}
        self._recorder: _Recorder | None = None
        self._streams: dict[int, Any] = {}
        wp.synchronize_device(self._where)  # what was allocated on Warp's stream is used on torch's

    def _put_model(self, deterministic: bool) -> Any:
        sizes = {name: self.num_worlds for name in self.model_fields if name not in _FOR_TASKS_ONLY}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                m = self._mjw.put_model(self.model, batch_sizes=sizes)
        except (NotImplementedError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"env.backend=warp cannot simulate this task ({reason}); give env.backend=mujoco") from None
        m.opt.warn_overflow = 0  # told by `check`
        # A bit mask, whose first bit alone orders contacts and nothing else.
        m.opt.deterministic = int(self._mjw.DeterminismType.ALL if deterministic else self._mjw.DeterminismType.NONE)
        return m

    def _require_memory(self) -> None:
        """Raise `UserError` where the worlds do not fit the GPU's memory, before they are allocated."""
        if self.device.type != "cuda":
            return
        one = self._mjw.make_data(self.model, nworld=1, nconmax=self.nconmax, njmax=self.njmax)
        # as much again for what a step allocates, the solver's above all
        needed = 2 * self.num_worlds * sum(array.capacity for array in _arrays(one, self._wp))
        free = torch.cuda.mem_get_info(self.device)[0]
        if needed > free:
            fit = self.num_worlds * free // needed
            raise UserError(
                f"{self.num_worlds} worlds need some {needed / 2**30:.1f} GiB and {self.device} has "
                f"{free / 2**30:.1f} GiB free: at most {fit} fit, or fewer contacts and constraints "
                "(env.nconmax, env.njmax)"
            )

    # ------------------------------------------------------------- readings

    def data(self, name: str) -> Tensor:
        if name not in self._data:
            if name == "ncon":
                self._counts = True
                self._data[name] = self._wp.to_torch(self._ncon)
                return self._data[name]
            array = getattr(self._d, name, None)
            reference = getattr(mujoco.MjData(self.model), name, None)
            if not isinstance(array, self._wp.array) or not isinstance(reference, np.ndarray):
                raise UserError(f"'{name}' is no reading of mujoco_warp")
            if name in ("cacc", "cfrc_int", "cfrc_ext"):
                self._m.opt.run_rne_postconstraint = True
            self._data[name] = self._wp.to_torch(array).view(self.num_worlds, *reference.shape)
        return self._data[name]

    def field(self, name: str) -> Tensor:
        if name not in self._fields:
            raise UserError(f"'{name}' is not per world here (per world: {', '.join(self.model_fields) or 'none'})")
        return self._fields[name]

    def _field(self, name: str) -> Tensor:
        values = np.asarray(getattr(self.model, name))
        if name in _FOR_TASKS_ONLY:
            value = torch.tensor(values, dtype=self.dtype, device=self.device)
            return value.repeat(self.num_worlds, *[1] * values.ndim)
        return self._wp.to_torch(getattr(self._m, name)).view(self.num_worlds, *values.shape)

    def state(self) -> dict[str, Tensor]:
        """The live tensors of the state, by MuJoCo's names, warm start and controls included."""
        return self._state

    def contact_forces(self) -> Tensor:
        return self.data("cfrc_ext")

    # ------------------------------------------------------------- episodes

    def reset(self, mask: Tensor) -> None:
        for name, values in self._state.items():
            write(values, mask, self._default[name])
        self._overflow.mul_(~mask)

    def forward(self, mask: Tensor, actuation: bool = False) -> None:
        """All worlds are computed anew, since mujoco_warp knows no other way; the others' readings are put back."""
        before = {name: values.clone() for name, values in self._data.items()}
        self._run(f"forward/{actuation}", lambda: self._forward(actuation))
        for name, values in before.items():
            write(self._data[name], ~mask, values)

    def _forward(self, actuation: bool) -> None:
        flags = self._m.opt.disableflags
        if not actuation:
            self._m.opt.disableflags = flags | int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        try:
            self._place()
            self._mjw.forward(self._m, self._d)
            self._count()
        finally:
            self._m.opt.disableflags = flags

    def step(self, mask: Tensor, nstep: int) -> None:
        live = self._state | self._data | {"overflow": self._overflow}
        before = {name: values.clone() for name, values in live.items()}
        self._run("place", self._place)
        for _ in range(nstep // _SETTLING_BLOCK):
            self._run("settle", lambda: self._steps(_SETTLING_BLOCK))
        for _ in range(nstep % _SETTLING_BLOCK):
            self._run("step", lambda: self._steps(1))
        self._run("readings", self._read)
        for name, values in before.items():
            write(live[name], ~mask, values)

    # ------------------------------------------------------------- stepping

    def control_step(self, ctrl: Tensor | None = None) -> None:
        if ctrl is not None:
            self.ctrl.copy_(ctrl)
        self._run("control", self._control_step)

    def _control_step(self) -> None:
        if self._continues:
            self._mjw.step2(self._m, self._d)
        self._steps(self.substeps - self._continues)
        self._read()

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self._mjw.step(self._m, self._d)

    def _read(self) -> None:
        """Readings of positions and velocities at the state reached; those of accelerations stay the last step's."""
        if self.legacy_step:
            self._wp.copy(self._sensors_before, self._d.sensordata)
            self._mjw.step1(self._m, self._d)
            if self.model.nsensordata:
                self._wp.launch(
                    self._kernels.put_back,
                    dim=self._d.sensordata.shape,
                    inputs=[self._held, self._sensors_before],
                    outputs=[self._d.sensordata],
                )
        self._count()

    def _place(self) -> None:
        """Poses of fixed geoms, where their parts are per world: mujoco_warp takes them for constant."""
        if not self._places:
            return
        m, d = self._m, self._d
        self._mjw.kinematics(m, d)
        bodies = [m.body_rootid, m.body_weldid, m.body_mocapid, m.geom_bodyid]
        self._wp.launch(
            self._kernels.place_fixed_geoms,
            dim=d.geom_xpos.shape,
            inputs=[*bodies, m.geom_pos, m.geom_quat, d.xpos, d.xquat],
            outputs=[d.geom_xpos, d.geom_xmat],
        )

    def _count(self) -> None:
        if self._counts:
            d = self._d
            self._ncon.zero_()
            self._wp.launch(
                self._kernels.count_contacts, dim=d.naconmax, inputs=[d.nacon, d.contact.worldid, d.contact.type],
                outputs=[self._ncon],
            )  # fmt: skip

    def bad(self) -> Tensor:
        """(W,) bool: diverged. Full buffers are told by `check`, since they concern all worlds."""
        largest = torch.cat([self.qpos, self.qvel, self.act], dim=1).abs().amax(dim=1)
        return ~(largest < _MAX_VALUE)  # true of NaN

    def check(self) -> None:
        """Raise `UserError` where contacts or constraints have been left out for want of room. Waits for the GPU."""
        kinds = self._mjw.OverflowType
        constraints = kinds.NEFC | kinds.NJMAX_NNZ
        contacts = kinds.BROADPHASE | kinds.NARROWPHASE | kinds.CCD | kinds.HFIELD
        flags = np.bitwise_or.reduce(self._overflow.numpy(force=True))
        for kind, setting, room in (
            (contacts, "env.nconmax", self._d.naconmax // self.num_worlds),
            (constraints, "env.njmax", self._d.njmax),
        ):
            if flags & int(kind):
                what = "contacts" if kind is contacts else "constraints"
                raise UserError(
                    f"{setting}={room}: the simulation had more {what} than there is room for and left some out; "
                    f"give {setting}={2 * room}"
                )

    # --------------------------------------------------------------- graphs

    def _run(self, name: str, program: Callable[[], None]) -> None:
        """Run a program of Warp's launches: the first time as it is, later as a graph on torch's stream."""
        if self._recorder is not None:
            self._recorder.insert(lambda: self._replay(name, program))
        elif name in self._graphs:
            self._replay(name, program)
        else:
            self._graphs[name] = None  # recorded at the next call, when all kernels are loaded
            self._launch(program)

    def _launch(self, program: Callable[[], None]) -> None:
        """Kernel by kernel."""
        with self._wp.ScopedDevice(self._where), self._wp.ScopedStream(self.stream, sync_enter=False):
            program()

    def _replay(self, name: str, program: Callable[[], None]) -> None:
        if self._graphs.get(name) is None:
            try:
                self._graphs[name] = self.capture(program)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
                warnings.warn(f"mujoco_warp's kernels are launched one by one: no graph ({reason})", stacklevel=2)
                self._graphs[name] = program
        graph = self._graphs[name]
        if callable(graph):
            self._launch(graph)
        else:
            self.replay(graph)

    def replay(self, graph: Any) -> None:
        """Launch what `capture` has recorded, on torch's stream."""
        self._wp.capture_launch(graph, stream=self.stream)

    @property
    def stream(self) -> Any:
        """Torch's current stream as Warp's; None on the CPU."""
        if self.device.type == "cpu":
            return None
        stream = torch.cuda.current_stream(self.device)
        if stream.cuda_stream not in self._streams:
            self._streams[stream.cuda_stream] = self._wp.stream_from_torch(stream)
        return self._streams[stream.cuda_stream]

    def capture(self, program: Callable[[], None]) -> Any:
        """A graph of a program of Warp's launches, recorded without running.

        No garbage is collected meanwhile: freeing memory would break a CUDA capture.
        """
        wp = self._wp
        collecting = gc.isenabled()
        gc.disable()
        try:
            with wp.ScopedDevice(self._where):
                if self.device.type == "cpu":
                    with wp.ScopedCapture() as capture:
                        program()
                else:
                    torch.cuda.current_stream(self.device).synchronize()
                    stream = wp.Stream(self._where)
                    with wp.ScopedStream(stream, sync_enter=False), wp.ScopedCapture(stream=stream) as capture:
                        program()
        finally:
            if collecting:
                gc.enable()
        return capture.graph

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """On a GPU `function` becomes a sequence of CUDA graphs, torch's and Warp's in turn."""
        return function if self.device.type == "cpu" else _Captured(self, function)

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """{'state', 'fields': numpy arrays by name, 'sensordata': as measured by the last step}."""
        return {
            "state": {name: values.numpy(force=True).copy() for name, values in self._state.items()},
            "fields": {name: values.numpy(force=True).copy() for name, values in self._fields.items()},
            "sensordata": self._sensors.numpy(force=True).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        live = {"state": self._state, "fields": self._fields}
        for part, tensors in live.items():
            for name, values in tensors.items():
                values.copy_(torch.from_numpy(np.asarray(state[part][name])))
        self._overflow.zero_()
        self.forward(torch.ones(self.num_worlds, dtype=torch.bool, device=self.device), actuation=True)
        self._sensors.copy_(torch.from_numpy(np.asarray(state["sensordata"])))


# ------------------------------------------------------------------- captured with torch


class _Recorder:
    """Records a function of torch operations and Warp's programs as a list of things to replay, in order."""

    def __init__(self, device: torch.device) -> None:
        self.replays: list[Callable[[], None]] = []
        self._held: list[torch.cuda.CUDAGraph] = []
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, function: Callable[..., Any], args: Sequence[Tensor]) -> Any:
        """What `function(*args)` returns: tensors that each replay fills. Nothing is run."""
        collecting = gc.isenabled()
        gc.disable()
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(self._stream):
                self._begin()
                try:
                    return function(*args)
                finally:
                    self._end()
        finally:
            if collecting:
                gc.enable()

    def insert(self, replay: Callable[[], None]) -> None:
        """Replay something of Warp's here."""
        self._end()
        self.replays.append(replay)
        self._begin()

    def _begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def _end(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was between two of Warp's programs
            self._graph.capture_end()
        self._held.append(self._graph)
        self.replays.append(self._graph.replay)


class _Captured:
    """A function of tensors, made of torch operations and its engine's calls, replayed without Python's part.

    The first calls run as they are: they load kernels. Arguments are copied in; results are fresh.
    """

    WARM_UP = 2

    def __init__(self, physics: MujocoWarp, function: Callable[..., Any]) -> None:
        self._physics, self._function = physics, function
        self._calls = 0
        self._args: tuple[Tensor, ...] = ()
        self._out: tuple[Tensor, ...] = ()
        self._replays: list[Callable[[], None]] = []  # empty where nothing was or could be recorded

    def __call__(self, *args: Tensor) -> tuple[Tensor, ...]:
        self._calls += 1
        if self._calls == self.WARM_UP + 1:
            self._record(args)
        if not self._replays:
            return self._function(*args)
        for live, value in zip(self._args, args, strict=True):
            live.copy_(value)
        for replay in self._replays:
            replay()
        return tuple(x.clone() for x in self._out)

    def _record(self, args: tuple[Tensor, ...]) -> None:
        self._args = tuple(x.clone() for x in args)
        recorder = self._recorder = _Recorder(self._physics.device)
        self._physics._recorder = recorder
        try:
            self._out = recorder.record(self._function, self._args)
            self._replays = recorder.replays
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            warnings.warn(f"a step's operations are launched one by one: no graph ({reason})", stacklevel=2)
        finally:
            self._physics._recorder = None


def _likely_constraints(model: mujoco.MjModel) -> int:
    """Rows for every limit, friction and equality at once, and for many contacts. mujoco_warp's guess is too low for
    some of the suite's models."""
    contacts = 16 + model.nv // 4
    limits = int(model.jnt_limited.sum() + model.tendon_limited.sum())
    friction = int((model.dof_frictionloss > 0).sum() + (model.tendon_frictionloss > 0).sum())
    return limits + friction + 6 * model.neq + 4 * contacts  # four sides of a contact's friction pyramid


def _arrays(holder: Any, wp: Any) -> list[Any]:
    """Every array of a Data, those of its contacts and constraints too."""
    found = []
    for value in vars(holder).values():
        if isinstance(value, wp.array):
            found.append(value)
        elif type(value).__module__.startswith("mujoco_warp"):
            found += _arrays(value, wp)
    return found
