"""One agent a file. `register_schemas` makes their settings known to Hydra. Imports `rlreg`, never `envs`."""

from hydra.core.config_store import ConfigStore

from agents.a2pr import A2PRConfig
from agents.bc import BCConfig
from agents.iql import IQLConfig
from agents.sb3 import SB3Config
from agents.td3 import TD3Config
from agents.td3_bc import TD3BCConfig

SCHEMAS = {
    "td3_schema": TD3Config,
    "bc_schema": BCConfig,
    "td3_bc_schema": TD3BCConfig,
    "iql_schema": IQLConfig,
    "a2pr_schema": A2PRConfig,
    "sb3_schema": SB3Config,
}


def register_schemas() -> None:
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(group="agent", name=name, node=schema)
