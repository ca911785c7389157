"""The numerics of LoRA compression: pure functions without paths, clock, log or configuration."""
