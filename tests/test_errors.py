"""The exception tree: exit codes as documented, and messages that survive pickling between processes."""

import pickle
import re

import pytest

from capfilt import errors
from capfilt.errors import CapfiltError

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CapfiltError)]
DRAWN = dict(re.findall(r"(\w+)\s+(\d+)  ", errors.__doc__ or ""))


def test_the_docstring_draws_every_class_with_its_exit_code() -> None:
    assert {kind.__name__: str(kind.exit_code) for kind in ALL} == DRAWN


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[CapfiltError]) -> None:
    error = pickle.loads(pickle.dumps(kind("expected a, found b. Do c")))
    assert type(error) is kind
    assert str(error) == "expected a, found b. Do c"


def test_the_lease_error_is_a_matter_of_the_run_folder() -> None:
    assert issubclass(errors.LeaseError, errors.RunStateError)
