"""How hypothesis runs here: without a deadline, for machines are noisy, and time is no property."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("walkeeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("walkeeper")
