"""A cluster's queue: submits, lists, cancels and tidies up jobs by way of its login node."""

from gateway.queue.allowance import Allowance
from gateway.queue.jobs import Ending, Queue

__all__ = ["Allowance", "Ending", "Queue"]
