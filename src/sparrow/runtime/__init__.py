"""What every process of ours needs before it does anything of its own: settings, logs, supervised tasks.

Owns how a process starts, reports and stops; must not know what the process is for.
"""
