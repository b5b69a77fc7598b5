"""The fair queue: durable jobs in the database, run turn by turn over all users."""

from crowdsafe.traffic.queue.cancel import cancel
from crowdsafe.traffic.queue.claim import claim
from crowdsafe.traffic.queue.enqueue import enqueue
from crowdsafe.traffic.queue.finish import complete, complete_with, fail, give_back, stop
from crowdsafe.traffic.queue.jobs import Claimed, Enqueued, Job, find_jobs, get_job
from crowdsafe.traffic.queue.kinds import GiveUp, JobQueue, Kind, Priority
from crowdsafe.traffic.queue.leases import Renewed, hold_lease, renew, report
from crowdsafe.traffic.queue.place import Place, QueueView, UserView, place_of, queue_view
from crowdsafe.traffic.queue.running import RunningJob
from crowdsafe.traffic.queue.sweep import Swept, sweep
from crowdsafe.traffic.queue.worker import Worker, WorkerStats

__all__ = [
    "Claimed",
    "Enqueued",
    "GiveUp",
    "Job",
    "JobQueue",
    "Kind",
    "Place",
    "Priority",
    "QueueView",
    "Renewed",
    "RunningJob",
    "Swept",
    "UserView",
    "Worker",
    "WorkerStats",
    "cancel",
    "claim",
    "complete",
    "complete_with",
    "enqueue",
    "fail",
    "find_jobs",
    "get_job",
    "give_back",
    "hold_lease",
    "place_of",
    "queue_view",
    "renew",
    "report",
    "stop",
    "sweep",
]
