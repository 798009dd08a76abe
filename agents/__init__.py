"""One agent in each file. `register_schemas` makes their settings known to Hydra. Imports `rlreg`, never `envs`."""

from agents.a2pr import A2PRConfig
from agents.bc import BCConfig
from agents.dqn import DQNConfig
from agents.iql import IQLConfig
from agents.level_replay import ACCELConfig, CurriculumConfig, EditReplayConfig, RobustPLRConfig
from agents.sac import SACConfig
from agents.sb3_baselines import SB3Config
from agents.td3 import TD3Config
from agents.td3_bc import TD3BCConfig
from agents.vae_dred import VAEDREDConfig
from rlreg.schemas import store

SCHEMAS = {
    "td3_schema": TD3Config,
    "sac_schema": SACConfig,
    "dqn_schema": DQNConfig,
    "bc_schema": BCConfig,
    "td3_bc_schema": TD3BCConfig,
    "iql_schema": IQLConfig,
    "a2pr_schema": A2PRConfig,
    "sb3_schema": SB3Config,
    "curriculum_schema": CurriculumConfig,
    "robust_plr_schema": RobustPLRConfig,
    "accel_schema": ACCELConfig,
    "edit_replay_schema": EditReplayConfig,
    "vae_dred_schema": VAEDREDConfig,
}


def register_schemas() -> None:
    for name, schema in SCHEMAS.items():
        store("agent", name, schema)
