"""Between two replicas: shipping the log, receiving it, rebuilding, granting the right to serve."""
