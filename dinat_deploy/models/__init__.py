"""Model configurations, definitions, checkpoints and preprocessing."""
