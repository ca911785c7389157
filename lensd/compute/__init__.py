"""The part of a job that runs in the worker process: read, plan, reduce, write, read back, measure.

Here the pure numerics of `lora` meet the files of `store`; nothing in here publishes or archives.
"""
