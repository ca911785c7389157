"""lensd: a daemon that makes LoRA files smaller and keeps the originals safe."""

__version__ = "0.1.0"
