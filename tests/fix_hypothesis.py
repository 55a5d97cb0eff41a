"""How hypothesis runs here: without a deadline, for machines are noisy, and time is no property.

A change is judged by the same examples each time (``--hypothesis-profile=settled``, in .ci/run);
whoever runs the tests otherwise tries new ones.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("walkeeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("settled", settings.get_profile("walkeeper"), derandomize=True)
settings.load_profile("walkeeper")
