"""A cluster in a box: Slurm, its login node, a directory and the gateway's own host, in namespaces."""

from tests.lab.lab import Lab

__all__ = ["Lab"]
