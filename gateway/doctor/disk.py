"""What it means that a directory on the cluster cannot be written, by the words of strerror(3). Pure."""

from __future__ import annotations

import re

#: Words, what they mean, and what to do; DIR stands for the directory, USER for the account.
_CAUSES = (
    (
        r"Key has expired|Required key not available|Key was rejected",
        "the file system wants a Kerberos or AFS credential, which a sudo or a key does not bring",
        "Put the state directory where no ticket is needed: login.state_dir: /scratch/%u/.gateway, in FILE.",
    ),
    (
        r"Read-only file system",
        "the file system is mounted read-only on the login node",
        "On the login node: findmnt -T DIR; mount it read-write, or set another login.state_dir in FILE.",
    ),
    (
        r"Disk quota exceeded",
        "the quota of USER is used up",
        "On the login node: quota -s -u USER; USER has to make room, or set another login.state_dir in FILE.",
    ),
    (
        r"No space left on device",
        "the file system is full (or has no inode left)",
        "On the login node: df -h DIR; df -i DIR; make room, or set another login.state_dir in FILE.",
    ),
    (
        r"has no home directory|No such file or directory",
        "the directory above it does not exist on the login node",
        "On the login node: mkhomedir_helper USER, or set another login.state_dir in FILE.",
    ),
    (
        r"symbolic link|does not belong to",
        "it is not USER's own directory",
        "On the login node: ls -ld DIR; it has to be a real directory that belongs to USER.",
    ),
    (
        r"Permission denied|Operation not permitted|cannot go into",
        "USER may not write there (Kerberos, AFS: nobody may without a ticket; root_squash: root may not)",
        "On the login node: namei -l DIR; give it to USER, or set another login.state_dir in FILE.",
    ),
    (
        r"Stale file handle|Input/output error|Transport endpoint|Host is down|Connection timed out",
        "the file server does not answer",
        "On the login node: findmnt -T DIR; mount it anew.",
    ),
)


def explain(words: str, directory: str, user: str, file: str) -> tuple[str, str]:
    """Return what an error means and what to do about it.

    Args:
        words: What the launcher said.
        directory: The state directory as the site config writes it.
        user: Who was to write there.
        file: The site config's file.
    """
    place = directory.replace("%u", user)
    place = f"~{user}{place[1:]}" if place.startswith("~") else place
    for pattern, meaning, mend in _CAUSES:
        if re.search(pattern, words):
            filled = (
                t.replace("DIR", place).replace("USER", user).replace("FILE", file) for t in (meaning, mend)
            )
            return next(filled), next(filled)
    return "it cannot be written", f"On the login node: sudo -u {user} ls -ld {place}"
