"""The commands of ``gateway``, a module each: ``add`` gives one its place, and what it calls does the work.

A command returns its exit status; it raises :class:`~gateway.errors.GatewayError` for what one clear sentence
says, which :mod:`gateway.cli` prints.
"""
