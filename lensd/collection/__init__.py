"""Compresses a collection: each LoRA of a folder or bucket to a second one, by `lensd batch`."""
