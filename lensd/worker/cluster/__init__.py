"""Jobs on the workers of a Dask cluster: the client process, its messages, the task of a worker.

The daemon imports `messages` only. Dask is imported by the client process and on Dask's workers.
"""
