"""One agent a file. `register_schemas` makes their settings known to Hydra. Imports `rlreg`, never `envs`."""

from hydra.core.config_store import ConfigStore

from agents.td3 import TD3Config


def register_schemas() -> None:
    ConfigStore.instance().store(group="agent", name="td3_schema", node=TD3Config)
