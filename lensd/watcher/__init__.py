"""From file-system events and scans to settled, whole files."""
