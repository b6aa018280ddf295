"""Stage `bounds`: parameters outside the change plan are refused before anything is trained, not after.

Its output is the same for all that is inside, so that a change of the plan alone trains nothing again.
"""

from pathlib import Path

from service.contract.errors import CommandParser, ConfigError, run_command
from training.change_plan import PLAN_FILE, breaches, load_plan
from training.io import read_params, write_json

BOUNDS = Path("build/bounds.json")


def main(argv: list[str] | None = None) -> int:
    """Hold params.yaml against the bounds of change_plan.yaml; write build/bounds.json if it is inside."""
    CommandParser(prog="python -m training.bounds", description=main.__doc__).parse_args(argv)
    plan, parameters = load_plan(), read_params()
    if found := breaches(plan.may_change, parameters):
        raise ConfigError(
            f"params.yaml is outside {PLAN_FILE}: {'; '.join(str(breach) for breach in found)}. Put it back; wider "
            "bounds are a change of the plan, which whoever is responsible for the device makes"
        )
    write_json(BOUNDS, {"inside": True})
    print(f"every parameter of {', '.join(plan.may_change.sections)} is inside {PLAN_FILE}")
    return 0


if __name__ == "__main__":
    run_command(main)
