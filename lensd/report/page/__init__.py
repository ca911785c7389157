"""A report as one page for a browser: no other file, no network. See docs/report.md."""
