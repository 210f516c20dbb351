"""The load generator: ``load.c``, and how it is built and run."""
