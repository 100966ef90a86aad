"""Check one model: read a request as JSON, write the report as one line of JSON."""

import json
import sys

from meta_reward_core.planning.model_check.run import ModelCheckRequest, check_model
from meta_reward_core.system.signals import set_parent_death_signal


def main() -> None:
    """Check the model in the request on standard input."""
    set_parent_death_signal()
    request = ModelCheckRequest.from_json(json.load(sys.stdin))
    report = check_model(request)
    sys.stdout.write(f"{json.dumps(report.to_json())}\n")


if __name__ == "__main__":
    main()
