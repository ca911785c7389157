"""One job in the thread of a test, as the job thread runs it."""

from __future__ import annotations

from lensd.jobs.compress import Job
from lensd.logs.events import Event
from lensd.worker.supervisor import Worker


def finish(job: Job, worker: Worker) -> Event | None:
    """Run a job to its end, with one worker process."""
    try:
        task = next(job)
        while True:
            try:
                answer = worker.request(task.request, task.give_up)
            except Exception as error:  # noqa: BLE001  the job decides what follows from it
                task = job.throw(error)
            else:
                task = job.send(answer)
    except StopIteration as end:
        event: Event | None = end.value
        return event
