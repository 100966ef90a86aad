"""Check one model: read a request as JSON, write the report as one line of JSON."""

import json
import resource
import sys
from typing import Final

from meta_reward_core.planning.model_check.run import CPU_SECONDS, ModelCheckRequest, check_model
from meta_reward_core.system.signals import set_parent_death_signal

_MEMORY_BYTES: Final = 8 * 2**30
"""Memory limit: a check loads no weights, but a hostile chat template can build long texts."""


def main() -> None:
    """Check the model in the request on standard input."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    set_parent_death_signal()
    request = ModelCheckRequest.from_json(json.load(sys.stdin))
    report = check_model(request)
    sys.stdout.write(f"{json.dumps(report.to_json())}\n")


if __name__ == "__main__":
    main()
