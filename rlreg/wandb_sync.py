"""`logger=wandb`: Weights & Biases follows a run's TensorBoard stream (extra `wandb`).

The stream stays what it is, and is there without a network too: wandb's own TensorBoard sync reads it. A run that goes
on goes on there as well: what it is called there is kept in its folder.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rlreg.errors import UserError
from rlreg.files import read_text, write_atomic
from rlreg.naming import hparams_of
from rlreg.run_folder import RunFolder

PROJECT = "rlreg"
"""The project, where the environment variable WANDB_PROJECT names no other."""


def wandb_sync(folder: RunFolder) -> AbstractContextManager[None]:
    """Has wandb take up whatever is written to TensorBoard inside; `folder` has its `config.yaml` by then.

    Raises `UserError` at once where wandb is not installed, and on entering where it cannot begin.
    """
    try:
        import wandb  # noqa: F401  here: an extra
    except ImportError:
        raise UserError("logger=wandb: wandb is not installed; pip install wandb, or give logger=tensorboard") from None
    return _following(folder)


@contextmanager
def _following(folder: RunFolder) -> Iterator[None]:
    import wandb

    kept = folder.path / "wandb-id.txt"
    if not kept.exists():
        write_atomic(kept, secrets.token_hex(4) + "\n")
    settings = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "id": read_text(kept).strip(),
        "name": "/".join(folder.path.resolve().parts[-2:]),
        "config": hparams_of(folder.read_config()),
        "dir": str(folder.path),
        "resume": "allow",
        "sync_tensorboard": True,
    }
    try:
        run = wandb.init(**settings)
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"logger=wandb: {reason}; WANDB_MODE=offline keeps it in the run's folder") from None
    try:
        yield
    finally:
        run.finish()
        wandb.tensorboard.unpatch()
