"""Acting on login nodes over SSH. The only package that imports paramiko.

``runner`` is the seam that the rest of the hub sees, ``remote`` what is sent and how the answer is cut out of
what comes back, ``known_hosts`` whether a host key may be trusted, ``transport`` one authenticated
connection, ``connection`` the login node itself.
"""
