"""One agent a file. `register_schemas` makes their settings known to Hydra. Imports `rlreg`, never `envs`."""

from hydra.core.config_store import ConfigStore

from agents.sb3 import SB3Config
from agents.td3 import TD3Config


def register_schemas() -> None:
    for name, schema in (("td3_schema", TD3Config), ("sb3_schema", SB3Config)):
        ConfigStore.instance().store(group="agent", name=name, node=schema)
