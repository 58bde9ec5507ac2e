"""Acting on login nodes over SSH, or on this host if it is one. The only package that imports paramiko.

``runner`` is the seam that the rest of the hub sees, ``remote`` what is sent and how the answer is cut out of
what comes back, ``local`` runs it here; over SSH, ``known_hosts`` says whether a host key may be trusted,
``transport`` is one authenticated connection, ``connection`` the login node itself.
"""
