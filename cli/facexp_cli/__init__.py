"""The command line of facexp: it parses arguments, calls the libraries and prints the results."""
