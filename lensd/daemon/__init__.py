"""The running program: main loop, job thread, requests, signals."""
