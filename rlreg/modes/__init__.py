"""What `mode=` does: a file each, with a function `run(cfg)`."""
