"""What changes watched folders and the archive. No other folder does."""
