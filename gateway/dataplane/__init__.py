"""The data plane: HAProxy and OpenSSH masters, told what to do from here. No byte of a user's passes here."""
