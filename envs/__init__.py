"""Environments behind one vector interface (`envs.base`), and Gymnasium ids `rlreg/...`. Imports never `agents`."""

from envs.gymnasium_ids import register

register()
