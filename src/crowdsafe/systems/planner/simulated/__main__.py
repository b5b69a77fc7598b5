"""``python -m crowdsafe.systems.planner.simulated --port 8085 --latency-s 0.5``: until Ctrl-C."""

from __future__ import annotations

import argparse

from crowdsafe.systems.planner.simulated.behaviour import Behaviour
from crowdsafe.systems.planner.simulated.serving import serve_simulated


def main() -> None:
    """Serve a simulated upstream as the arguments say; each knob of `Behaviour` is one."""
    parser = argparse.ArgumentParser(description="A simulated language model's service.")
    parser.add_argument("--port", type=int, default=8085, help="on 127.0.0.1")
    for name, knob in Behaviour.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(knob.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, help=f"default {knob.default}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    serve_simulated(given.pop("port"), Behaviour.model_validate(given))


if __name__ == "__main__":
    main()
