"""Who may use which of Grid Engine's projects: project(5) and access_list(5). Measured with 8.1.9."""

from collections.abc import Mapping

from gateway.discovery import EVERYBODY
from gateway.model import Completed
from gateway.schedulers.sge_documents import answered
from gateway.schedulers.sge_qconf import listed, records


def accounts(projects: Completed, lists: Completed) -> Mapping[str, tuple[str, ...]] | None:
    """Return the projects of each user whom a list names, of each ``@group``, and of everybody else.

    Who is in a list of a project's xacl may not use it, whatever its acl says; a project without an acl is
    everybody's. Groups count as in Grid Engine, where they are a user's primary one; a group that a project's
    xacl names is left to qsub, which refuses.

    Args:
        projects: What ``qconf -sprj`` showed of all projects.
        lists: What ``qconf -su`` showed of all lists.

    Returns:
        None where there are no projects: then there is nothing to choose.

    Raises:
        QueueUnreachable: They are not known.
    """
    if projects.status == 1 and "no project list defined" in projects.stderr:
        return None
    shown = records(answered(lists, "qconf"), "name")
    members = {block["name"]: listed(block.get("entries", "")) for block in shown}
    allowed: dict[str, tuple[set[str] | None, set[str]]] = {}
    for block in records(answered(projects, "qconf"), "name"):
        acl, xacl = (listed(block.get(key, "")) for key in ("acl", "xacl"))
        may, may_not = ({who for name in names for who in members.get(name, ())} for names in (acl, xacl))
        allowed[block["name"]] = (may if acl else None), may_not
    named = {who for may, may_not in allowed.values() for who in (may or set()) | may_not}
    return {
        who: tuple(
            name
            for name, (may, may_not) in allowed.items()
            if who not in may_not and (who in may if may is not None else not who.startswith("@"))
        )
        for who in sorted(named | {EVERYBODY})
    }
