"""Every error that Gateway raises: one root, and for each what a person may see.

What a person may see has one form, in two or three short sentences: what happened and what it means for them
(``public``), and what to do next (``advice``). ``str(error)`` is for the log and may hold more. ``transient``
says that the same call may succeed later without anybody mending anything.
"""

from typing import ClassVar


class GatewayError(Exception):
    """The root of all errors raised on purpose.

    Args:
        detail: For the log: what happened, with names and exit codes, without secrets.
        public: What happened and what it means, for the person; the class's own if it is not given.
        advice: What to do next; the class's own if it is not given.
    """

    default_public: ClassVar[str] = "Something went wrong in the gateway. It is not your fault."
    default_advice: ClassVar[str] = (
        "Try again. If it happens again, tell the gateway's administrators when it happened."
    )
    transient: ClassVar[bool] = False
    status: ClassVar[int] = 500

    def __init__(self, detail: str = "", public: str | None = None, advice: str | None = None) -> None:
        super().__init__(detail or public or self.default_public)
        self.public = public or self.default_public
        self.advice = advice or self.default_advice

    @property
    def text(self) -> str:
        """All that a person may see, as one text."""
        return f"{self.public} {self.advice}"


class ConfigError(GatewayError):
    """A configuration cannot be used. The detail names the file, the line and the mend."""

    default_public = "The gateway is not set up correctly, so it cannot do this."
    default_advice = "Tell the gateway's administrators."


# --- logging in -------------------------------------------------------------------------------------


class LoginRefused(GatewayError):
    """The name and password are not accepted, whichever of the two is wrong."""

    default_public = "This user name and password do not match, so you are not logged in."
    default_advice = "Check both and try again."
    status = 403


class LoginNotAllowed(GatewayError):
    """The person is who they say, but may not use this gateway; or it is a system's account, whoever asks."""

    default_public = "This account may not use the gateway, so you are not logged in."
    default_advice = "Ask the gateway's administrators to let you in."
    status = 403


class PasswordExpired(LoginNotAllowed):
    """The person is who they say, but the directory wants another password first."""

    default_public = "Your password has expired or must be changed, so you are not logged in."
    default_advice = "Change it where you usually do, then log in here with the new one."


class DirectoryUnreachable(GatewayError):
    """The directory did not answer: nothing is known about the password."""

    default_public = "The directory that checks passwords is not answering. Your password was not checked."
    default_advice = "It is not your fault: try again in a few minutes."
    transient = True
    status = 503


# --- what was asked for -----------------------------------------------------------------------------


class BadRequest(GatewayError):
    """What was asked for makes no sense as it stands; the public sentence says what to change."""

    default_public = "The gateway does not understand this request, so nothing was done."
    default_advice = "Correct it and try again."
    status = 400


class InvalidChoice(BadRequest):
    """A value on the form is not one that the site offers.

    Args:
        field: The form field's name, so that the page can show the sentence beside it.
    """

    default_advice = "Nothing was started: correct this and start again."

    def __init__(self, field: str, public: str) -> None:
        super().__init__(f"{field}: {public}", public)
        self.field = field


class NotFound(GatewayError):
    """There is no such thing, or the person may not know that there is."""

    default_public = "There is nothing at this address."
    default_advice = "Check the address, or go on from the list of your servers."
    status = 404


class Forbidden(GatewayError):
    """The person may not do this."""

    default_public = "You may not do this, so nothing was done."
    default_advice = "If you need it, ask the gateway's administrators."
    status = 403


class AlreadyRunning(GatewayError):
    """The server exists already and has not ended."""

    default_public = "This server is already there, so nothing was started."
    default_advice = "Open it, or stop it first if you want to start it differently."
    status = 409


class CallRefused(GatewayError):
    """A job called in a port that the gateway does not take: not now, or not that one."""

    default_public = "The gateway does not take a port from this job now, so nothing was done."
    default_advice = "Leave the port in the endpoint file: the gateway reads it there."
    status = 409


# --- the login node ---------------------------------------------------------------------------------


class LoginNodeUnreachable(GatewayError):
    """No connection to the login node, or it broke: nothing is known, nothing is lost."""

    default_public = "The cluster's login node is not answering. Your jobs are untouched."
    default_advice = "Wait a few minutes: the gateway goes on trying."
    transient = True
    status = 503


class HostKeyRefused(GatewayError):
    """The login node's host key is unknown or has changed. The detail says how to add it."""

    default_public = (
        "The gateway is not sure that it has reached the right login node, so it went no further. "
        "Your jobs are untouched."
    )
    default_advice = "Tell the gateway's administrators."
    status = 503


class LoginNodeRefused(GatewayError):
    """The login node lets the gateway in, but not do what it needs (account, sudo, launcher)."""

    default_public = "The cluster does not let the gateway act for you. Your jobs are untouched."
    default_advice = "Tell the gateway's administrators."
    status = 503


class StateDirUnwritable(GatewayError):
    """The user's state directory on the cluster cannot be written."""

    default_public = (
        "The gateway cannot write to your home directory on the cluster, where your job's files belong."
    )
    default_advice = "Check on the cluster that it is not full and not read-only, then start again."
    status = 409


# --- the scheduler ----------------------------------------------------------------------------------


class QueueUnreachable(GatewayError):
    """The scheduler did not answer: nothing is known, nothing is lost."""

    default_public = "The cluster's scheduler is not answering. Your job is untouched."
    default_advice = "Wait a few minutes: the gateway goes on asking."
    transient = True
    status = 503


class ScriptNotRendered(GatewayError):
    """The machine was too busy to write a job script; that says nothing of the site config."""

    default_public = "The gateway is too busy to write the job script, so nothing is started yet."
    default_advice = "Wait a minute, then try again."
    transient = True
    status = 503


class EndedNotListed(QueueUnreachable):
    """The scheduler keeps no ended jobs, and therefore listed none at all: ask without them."""


class NotEndedYet(QueueUnreachable):
    """The accounting says that the job runs: it may hear of its end a moment after the listing."""


class NoAccounting(QueueUnreachable):
    """The scheduler keeps no accounting: nobody will know more later."""


class SubmitRefused(GatewayError):
    """The scheduler said no to a job; the public sentence holds its own words."""

    default_public = "The cluster did not accept the job, so nothing was started."
    default_advice = (
        "Start again with other choices. If you do not see what is wrong, ask the cluster's administrators."
    )
    status = 409


class SubmitOutcomeUnknown(GatewayError):
    """The submit command gave no clear answer: the job may exist. Look for its name before trying again."""

    default_public = "The cluster has not said whether it took your job. The gateway is finding out."
    default_advice = "Wait a moment: nothing is started twice."
    transient = True
    status = 503


class CancelRefused(GatewayError):
    """The scheduler will not cancel a job."""

    default_public = "The cluster does not stop the job, so it goes on."
    default_advice = "The gateway tries again; if it does not help, tell the cluster's administrators."


# --- the data plane ---------------------------------------------------------------------------------


class DataPlaneError(GatewayError):
    """HAProxy or an OpenSSH master is missing, too old or did not do what it was told."""

    default_public = "The gateway's proxy is not answering. Your jobs are untouched."
    default_advice = "Wait a minute and load the page again."
    transient = True
    status = 503
