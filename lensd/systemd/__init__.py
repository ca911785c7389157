"""lensd as a service of systemd: the drop-in that a configuration needs, and access checks.

`facts` looks at the machine; `users` and `writable_paths` choose user and folders; `dropin` renders
the drop-in with `syntax`. `access` asks the kernel what a running service may write, and
`unwritable` reports as faults the paths of a configuration that it may not.
"""
