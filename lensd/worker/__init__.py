"""The worker process: its messages, its supervision, and the choice of device."""
