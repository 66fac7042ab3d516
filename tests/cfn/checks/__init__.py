"""Errors in a template that no linter notices, one function each.

Every function takes a `World` (the four stacks, resolved) and yields a sentence for each error. `test_templates.py`
runs them all, and shows with the broken copies in `mutants.yml` that each one detects something.
"""

from checks import alarms, balancer, network, service, stacks  # noqa: F401 (each adds its checks to the list)
from checks.common import CHECKS  # noqa: F401
