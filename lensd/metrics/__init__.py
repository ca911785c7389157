"""What Prometheus is told, by a file that node_exporter reads."""
