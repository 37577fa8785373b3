"""The networks, and starting one from the weights of another."""
