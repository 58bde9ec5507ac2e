"""A part of what the proxy should hold, and holds: some people's. Pure.

With thousands of routes a comparison of all takes longer than a browser should wait for one. What one person
does changes nothing of another's: no map has a key of two people's, and no server is two people's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.routes import Actual, Desired, grant_id, id_of, route_key


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part.

    Attributes:
        ids: The starts of these people's servers, also those that have ended lately.
        prefixes: How the keys of their routes begin.
    """

    ids: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, users: Collection[str], ids: Collection[str], host_of: Callable[[str], str]) -> Scope:
        """Return the part that is these people's.

        Args:
            users: Who.
            ids: The starts of their servers.
            host_of: Returns which host a person's servers are at.
        """
        return cls(frozenset(ids), tuple(route_key(host_of(user), user, "") for user in users))

    def of_actual(self, actual: Actual) -> Actual:
        """Return what the proxy holds of this part."""
        ids = self.ids
        return Actual(
            servers={name: state for name, state in actual.servers.items() if id_of(name) in ids},
            routes={key: name for key, name in actual.routes.items() if key.startswith(self.prefixes)},
            grants={key: value for key, value in actual.grants.items() if grant_id(key) in ids},
            secrets={key: actual.secrets[key] for key in ids & actual.secrets.keys()},
            bulk={key: actual.bulk[key] for key in ids & actual.bulk.keys()},
            worker=actual.worker,
        )

    def replaced(self, whole: Desired, part: Desired) -> Desired:
        """Return what the proxy should hold when ``part`` is what it should hold of this part."""
        ids = self.ids
        return Desired(
            (*(route for route in whole.routes if not route.key.startswith(self.prefixes)), *part.routes),
            (*(grant for grant in whole.grants if grant.server_id not in ids), *part.grants),
            (*(key for key in whole.held if not key.startswith(self.prefixes)), *part.held),
            (*(name for name in whole.kept if id_of(name) not in ids), *part.kept),
        )
