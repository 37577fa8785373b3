"""The proof of a bundle, as far as the runtime alone can make it: checks, verdict and report."""
