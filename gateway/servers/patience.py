"""How long, and how often, is waited for what. Seconds, where nothing else is said."""

from gateway.queue.allowance import Allowance

#: For which a cluster that does not answer is asked again to take a job.
SUBMIT_PATIENCE = 600.0
#: Between two listings that must both lack a job before a submit of unknown outcome is tried again.
SETTLE_GAP = 5.0
#: For which a submit may still be under way on the login node after its answer was lost.
#: A trial and the submit itself, what the launcher does besides, and what ending them takes.
SUBMIT_MAY_TAKE = Allowance().launch(2) + 20.0
#: After which a start that was expected, and did not come, is no longer waited for with fast polls.
OVERDUE = 60.0
#: Between two cancels of a job that is still there.
CANCEL_AGAIN = 15.0
#: Between two requests that ask whether a ready server still answers.
PROBE_READY = 30.0
#: Until a silent server is asked again: the first time, and at most.
PROBE_WAITING, PROBE_SLOWEST = 1.0, 5.0
#: That a server may take to answer.
PROBE_TIMEOUT = 5.0
#: How many requests in a row must fail before a ready server counts as unreachable.
SILENCES_TO_BELIEVE = 2
#: A starting server may say by its scheduler where it listens, until its endpoint file is read; and between
#: two reads, for the first minute and after it.
FILE_AFTER, FILE_AGAIN, FILE_LATER = 10.0, 5.0, 15.0
#: For which a job that calls waits until the scheduler says that it runs.
CALL_MAY_WAIT = 15.0
#: How often, and how far apart, the removal of an ended server's files is tried.
CLEAN_TRIES, CLEAN_AGAIN = 10, 30.0
#: Between two writes of what happened on the way; and of the same, if it happens again and again.
TIMELINE_EVERY, SAME_AGAIN = 1.0, 60.0
