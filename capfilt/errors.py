"""Every exception capfilt raises on purpose, and the exit code each ends the command with.

    CapfiltError               1   anything below that has no better code
    ├── ConfigError            2   a pipeline, architecture or command line that cannot be right
    ├── InputError             2   an input file that is missing, unreadable or lacks a column
    ├── CheckpointError        2   weights that cannot be found or do not fit
    ├── RunStateError          2   a run folder that does not belong to this config, inputs or version
    │   ├── LeaseError         2   another driver is working on the run
    │   └── OutputError        2   a run folder that takes no more: disk full, not allowed; what was done is kept
    ├── FailureBudgetError     3   too many rows or chunks failed; says how to retry just them
    ├── ContractError          4   a bug: a stage broke its promise
    └── Interrupted          130   Ctrl-C; what was done is committed
        └── Terminated       143   the same for SIGTERM, which schedulers send

A message says what was expected, what was found and what to do. Exceptions take positional arguments only, so that they survive
pickling between processes. A row that fails is data (its `status`), never an exception.
"""


class CapfiltError(Exception):
    """Base of the tree. `str(error)` is the whole message for the user."""

    exit_code = 1


class ConfigError(CapfiltError):
    exit_code = 2


class InputError(CapfiltError):
    exit_code = 2


class CheckpointError(CapfiltError):
    exit_code = 2


class RunStateError(CapfiltError):
    exit_code = 2


class LeaseError(RunStateError):
    pass


class OutputError(RunStateError):
    pass


class FailureBudgetError(CapfiltError):
    exit_code = 3


class ContractError(CapfiltError):
    exit_code = 4


class Interrupted(CapfiltError):
    exit_code = 130


class Terminated(Interrupted):
    exit_code = 143
