"""`contrail env`: the environment of the bare tools."""

from __future__ import annotations

from cli.output import failures, print_json, say
from contrail import environment
from contrail.feast_config import feature_store_yaml
from contrail.online_layout import OnlineError
from contrail.settings import Settings


def main(*, write: bool, as_json: bool) -> None:
    """Print export lines (or a JSON object), after writing the files where asked."""
    settings = Settings()
    written = environment.write(settings) if write else []
    with failures(OnlineError):
        feature_store_yaml(settings)  # what is printed names it
    if as_json:
        print_json(environment.variables(settings))
        return
    say(environment.shell_exports(settings).rstrip("\n"))
    for path in written:
        say(f"# wrote {path}")
