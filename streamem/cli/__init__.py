"""The command line: one click group, one module per command; libraries load when a command runs.

`streamem.cli.commands` holds what commands share, `streamem.cli.progress` what they show meanwhile, and
`streamem.cli.output` how they deliver results.
"""

from __future__ import annotations

import click

from streamem import __version__
from streamem.cli import apply, demo, fit, inspect, plan, select

__all__ = ["main"]

_EPILOG = """\b
Results go to stderr as text, or with --json to stdout as one JSON document.

\b
Exit codes:
    0  done
    1  an unexpected error: a bug, please report it
    2  wrong usage, or data that cannot be used (NaN, wrong shape, ...)
    3  the fit stopped before it converged; its results are written all the same
    4  data could not be read, or a result could not be written
    5  the memory limit cannot be met
    6  not a model file, a newer one, or a damaged one
    7  the cluster cannot do the work: no scheduler or workers, other versions, ...
  130  interrupted
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Expectation-maximisation for data bigger than memory."""


_COMMANDS = (
    demo.demo,
    plan.plan,
    fit.fit,
    select.select,
    apply.predict,
    apply.score,
    apply.impute,
    inspect.inspect,
)

for _command in _COMMANDS:
    main.add_command(_command)
