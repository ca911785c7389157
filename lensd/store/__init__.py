"""The disk and the ledger: files, the archive, and the rows about them."""
