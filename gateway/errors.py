"""Every error that Gateway raises: one root, and for each what a person may see.

``public`` is the sentence shown to the person at the page. ``str(error)`` is for the log and may hold
more. ``transient`` says that the same call may succeed later without anybody mending anything.
"""

from typing import ClassVar


class GatewayError(Exception):
    """The root of all errors raised on purpose.

    Args:
        detail: For the log: what happened, with names and exit codes, without secrets.
        public: The sentence for the person; the class's own if it is not given.
    """

    default_public: ClassVar[str] = "Something went wrong in the gateway. Its administrators have been told."
    transient: ClassVar[bool] = False
    status: ClassVar[int] = 500

    def __init__(self, detail: str = "", public: str | None = None) -> None:
        super().__init__(detail or public or self.default_public)
        self.public = public or self.default_public


class ConfigError(GatewayError):
    """A configuration cannot be used. The detail names the file, the line and the mend."""

    default_public = "The gateway is not configured correctly. Please tell its administrators."


# --- logging in -------------------------------------------------------------------------------------


class LoginRefused(GatewayError):
    """The name and password are not accepted, whichever of the two is wrong."""

    default_public = "That user name and password do not match. Please try again."
    status = 403


class LoginNotAllowed(GatewayError):
    """The person is who they say, but may not use this gateway."""

    default_public = "Your account may not use this gateway. Please ask its administrators."
    status = 403


class DirectoryUnreachable(GatewayError):
    """The directory did not answer: nothing is known about the password."""

    default_public = "The directory that checks passwords is not answering. Please try again in a minute."
    transient = True
    status = 503


# --- what was asked for -----------------------------------------------------------------------------


class BadRequest(GatewayError):
    """What was asked for makes no sense as it stands; the public sentence says what to change."""

    status = 400


class InvalidChoice(BadRequest):
    """A value on the form is not one that the site offers.

    Args:
        field: The form field's name, so that the page can show the sentence beside it.
    """

    def __init__(self, field: str, public: str) -> None:
        super().__init__(f"{field}: {public}", public)
        self.field = field


class NotFound(GatewayError):
    """There is no such thing, or the person may not know that there is."""

    default_public = "There is nothing at this address."
    status = 404


class Forbidden(GatewayError):
    """The person may not do this."""

    default_public = "You may not do this."
    status = 403


class AlreadyRunning(GatewayError):
    """The server exists already and has not ended."""

    default_public = "This server is already there. Stop it first if you want to start it differently."
    status = 409


# --- the login node ---------------------------------------------------------------------------------


class LoginNodeUnreachable(GatewayError):
    """No connection to the login node, or it broke: nothing is known, nothing is lost."""

    default_public = "The cluster's login node is not answering. Your jobs are untouched."
    transient = True
    status = 503


class HostKeyRefused(GatewayError):
    """The login node's host key is unknown or has changed. The detail says how to add it."""

    default_public = (
        "The gateway cannot be sure that it speaks with the right login node, so it did not. "
        "Please tell its administrators."
    )
    status = 503


class LoginNodeRefused(GatewayError):
    """The login node lets the gateway in, but not do what it needs (account, sudo, launcher)."""

    default_public = "The cluster did not let the gateway act for you. Please tell its administrators."
    status = 503


class StateDirUnwritable(GatewayError):
    """The user's state directory on the cluster cannot be written."""

    default_public = (
        "The gateway cannot write to your home directory on the cluster. "
        "Check that it is not full or read-only."
    )
    status = 409


# --- the scheduler ----------------------------------------------------------------------------------


class QueueUnreachable(GatewayError):
    """The scheduler did not answer: nothing is known, nothing is lost."""

    default_public = "The cluster's scheduler is not answering. Your job is untouched."
    transient = True
    status = 503


class SubmitRefused(GatewayError):
    """The scheduler said no to a job; the public sentence holds its own words."""

    status = 409


class SubmitOutcomeUnknown(GatewayError):
    """The submit command gave no clear answer: the job may exist. Look for its name before trying again."""

    default_public = (
        "The cluster has not answered yet. The gateway is checking whether your job was accepted."
    )
    transient = True
    status = 503


class CancelRefused(GatewayError):
    """The scheduler will not cancel a job."""


# --- the data plane ---------------------------------------------------------------------------------


class DataPlaneError(GatewayError):
    """HAProxy or an OpenSSH master is missing, too old or did not do what it was told."""

    default_public = "The gateway's proxy is not answering. Your jobs are untouched."
    transient = True
    status = 503
