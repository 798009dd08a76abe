"""CaveEscape (Garcin et al., "DRED", ICML 2024): batched MiniGrid worlds, their levels, and models of levels."""
