"""CaveEscape (Garcin et al., "DRED", ICML 2024): batched MiniGrid worlds, their levels, and models of levels.

Importing it registers `rlreg/CaveEscape-v0` with Gymnasium, for `gymnasium.make` and `gymnasium.make_vec`.
"""

import gymnasium

gymnasium.register(
    id="rlreg/CaveEscape-v0",
    entry_point="envs.cave.gym_env:CaveEnv",
    vector_entry_point="envs.cave.gym_env:CaveVectorEnv",
)
