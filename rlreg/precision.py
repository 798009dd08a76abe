"""`agent.precision=bfloat16`: whether this processor has instructions for it."""

from __future__ import annotations

from pathlib import Path

import torch

from rlreg.errors import UserError

CPUINFO = Path("/proc/cpuinfo")


def require_instructions(precision: str, device: torch.device) -> None:
    """Raise `UserError` for bfloat16 on a processor that has no instructions for it, where it is thirty times slower.

    What a processor has is known on Linux alone; elsewhere, and on a GPU, nothing is refused.
    """
    if precision == "bfloat16" and device.type == "cpu" and _has_bfloat16() is False:
        raise UserError("agent.precision=bfloat16: this processor has no instructions for it; give float32")


def _has_bfloat16() -> bool | None:
    """None where that cannot be known."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    flags = next((line.split(":")[1].split() for line in lines if line.lower().startswith(("flags", "features"))), None)
    return None if flags is None else any("bf16" in flag for flag in flags)
