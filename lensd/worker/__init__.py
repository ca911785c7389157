"""The compute process: what is said over its pipes, its supervision, the choice of device."""
