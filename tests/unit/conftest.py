"""What holds for every property: its examples may take as long as they take.

A machine that stands still for a moment in the middle of an example has found nothing. By itself Hypothesis fails an
example that took 200 ms, and a property whose first examples took a second to be made up.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
