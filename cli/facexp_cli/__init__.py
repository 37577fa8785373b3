"""The command line of facexp: parse, call, print."""
