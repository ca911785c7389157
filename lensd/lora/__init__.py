"""The numerics of LoRA compression: pure functions; no paths, clock, logging or configuration."""
