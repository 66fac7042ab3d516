"""What a template can get wrong without any linter noticing, one function each.

Every function takes a `World` (the four stacks, resolved) and yields a sentence for each thing that is wrong.
`test_templates.py` runs them all, and shows for each, by the broken copies in `mutants.yml`, that it bites.
"""

from checks import alarms, balancer, network, service, stacks  # noqa: F401 (each adds its checks to the list)
from checks.common import CHECKS  # noqa: F401
