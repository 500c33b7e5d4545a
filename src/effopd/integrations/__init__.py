"""EffOPD in training engines other than TRL. Each is loaded by its own name, and only where the engine is installed."""
