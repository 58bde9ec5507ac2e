"""pbs_rstat: reservations, in full (-f) or by their ids (-B).

It follows OpenPBS's src/cmds/pbs_rstat.c: display_single_reservation() for what is printed, handle_resv() for
what is said where there is no server. What a maintenance has (pbs_rsub --hosts) is from main() of pbs_rsub.c
and the server's req_resvSub() and req_confirmresv(); the order is that of master_resv_attr_def.xml.
"""

from __future__ import annotations

import sys
import time

from . import wire

#: What is printed as a time.
_TIMES = ("reserve_start", "reserve_end", "ctime", "mtime", "reserve_retry")


def main(words: list[str]) -> int:
    """Print what is asked for and return the exit status."""
    if words not in (["-f"], ["-F"], ["-B"]):
        sys.stderr.write("Usage:\n\tpbs_rstat [-fFBS] [reservation-id]\n\tpbs_rstat --version\n")
        return 1
    try:
        answer = wire.ask("reservations")
    except wire.Unreachable:
        wire.complain("Connection refused")
        wire.complain("pbs_rstat: cannot connect to server (errno=15010)")
        return wire.status_of(15010)
    for identifier, attributes in answer["reservations"]:
        print(f"Resv ID: {identifier}")
        if words != ["-B"]:
            print("".join(f"{key} = {_shown(key, value)}\n" for key, value in attributes.items()))
    return 0


def _shown(key: str, value: str) -> str:
    """Return a value: show_nonprint_chars() lets a line break and a tab stand."""
    if key in _TIMES:
        return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(int(value)))
    return "".join(f"^{chr(ord(c) + 64)}" if ord(c) < 32 and c not in "\n\t" else c for c in value)
