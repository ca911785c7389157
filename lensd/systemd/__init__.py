"""lensd as a unit of systemd: the drop-in that a configuration needs, and what a unit denies."""
