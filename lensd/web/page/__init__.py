"""The templates, style and scripts of `lensd web`. Others come from lensd.report.page."""
