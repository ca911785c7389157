"""The log: one JSON object a line, and where the lines go."""
