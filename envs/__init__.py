"""Environments behind one vector interface (`envs.base`). Imports `rlreg`, never `agents`."""
