"""The part of a job that runs in the worker process: read, plan, reduce, write, read back, measure.

Here the pure numerics of `lora` meet the files of `store`; nothing in here publishes or archives.
"""

import os

# numpy's BLAS reads it when it is loaded: it would have threads of its own for each of ours.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
