"""Deterministic simulation: whole clusters of production code in one thread, from one seed.

What runs is what ships: the authority loop with its driver and services, and every control machine of the nodes on the
model data plane. What is made up is the world: time, network, stores, crashes. One seed gives one history.
"""
