"""The part of a job that runs in the worker process: read, plan, reduce, write, read back, measure.

This package applies the numerics of `lora` to files of `store`. It reads the original and writes
the temporary file that it is given; it publishes and archives nothing.
"""

import os

# numpy's BLAS reads this when it is loaded. Otherwise it would start threads of its own for each
# thread of the pool.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
