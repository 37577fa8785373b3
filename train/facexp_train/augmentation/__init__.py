"""How training crops are framed and changed."""
