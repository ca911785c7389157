"""The configuration: YAML text -> frozen models, or every fault at once (`reading.load`)."""
