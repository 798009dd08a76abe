"""bfloat16 is offered where the processor has it."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY, main

from rlreg import precision
from rlreg.errors import UserError

CPU = torch.device("cpu")
INTEL = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512f {}\nbugs\t\t:\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "offered"),
    [
        (INTEL.format("avx512_bf16"), True),
        (INTEL.format("amx_bf16"), True),
        (INTEL.format("avx512vl"), False),
        (ARM.format("bf16"), True),
        (ARM.format("sve"), False),
        ("no such lines", True),  # nothing is known
    ],
)
def test_bfloat16_needs_a_processor_with_its_instructions(monkeypatch, tmp_path, cpuinfo, offered) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    precision.require_instructions("float32", CPU)
    precision.require_instructions("bfloat16", torch.device("cuda"))
    if offered:
        precision.require_instructions("bfloat16", CPU)
    else:
        with pytest.raises(UserError, match=r"^agent.precision=bfloat16: this processor has no instructions"):
            precision.require_instructions("bfloat16", CPU)


@pytest.mark.parametrize("agent", ["td3", "sac"])
def test_a_run_is_refused_before_its_folder_is_made(monkeypatch, capsys, tmp_path, agent) -> None:
    (tmp_path / "cpuinfo").write_text(INTEL.format("avx2"))
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    run = [f"agent={agent}", "env=gym/Pendulum-v1", *TINY, "agent.precision=bfloat16", f"run_dir={tmp_path / 'run'}"]
    assert main(monkeypatch, *run) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("no instructions for it; give float32")
    assert not (tmp_path / "run").exists()
