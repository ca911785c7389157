"""How long a test waits for an event at most.

Waits end with their event. A limit ends a run that hangs, so it is far longer than a busy machine
needs. What lensd promises in seconds is tested with a limit of its own, by slow tests.
"""

PATIENCE = 240.0  # seconds
# A writer waits for 45 s until the kernel breaks a lease that nobody releases. One that waited for
# less was let through by lensd.
LEASE_IS_RELEASED = 30.0  # seconds
