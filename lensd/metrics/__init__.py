"""Metrics for Prometheus, in a file that node_exporter reads.

`exporter` is the thread that writes the file; `counts` counts logged events, `gauges` reads the
ledger, `exposition` is the text format, `textfile` replaces the file.
"""
