"""What helps to find out what went wrong: the past of servers, and an archive for those who help."""
