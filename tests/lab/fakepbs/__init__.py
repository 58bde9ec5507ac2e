"""A batch system that behaves as OpenPBS 23.06 was seen to: for tests on machines where there is none.

``qsub qstat qdel qalter qselect pbsnodes pbs_rstat`` are one program, ``fakepbs``, under several names; they
ask a small server over a Unix socket, which knows who asks. ``fakepbs mom`` runs the jobs on a node, as their
owners. It needs the standard library alone, and is installed as PREFIX/bin, PREFIX/lib/fakepbs and
PREFIX/etc/pbs.conf.
"""
