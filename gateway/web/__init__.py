"""The pages, the way into a server, and the REST API."""

from gateway.web.application import make_application, make_server
from gateway.web.services import Services

__all__ = ["Services", "make_application", "make_server"]
