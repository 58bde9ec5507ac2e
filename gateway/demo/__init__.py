"""The demonstration: a gateway and all that it needs, on one machine, for one person, without root.

It is the real gateway with a real configuration; only what surrounds it is small: a directory in memory, a
queue that runs jobs as processes, a certificate made at the start.
"""
