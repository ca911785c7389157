"""`lensd web`: a live page in the browser, served by a process of its own.

It reads the ledger, and asks the daemon for changes over the control socket. It writes no file.
"""
