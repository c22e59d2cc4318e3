"""User errors: a code, what came, the rule, the remedy. Our own mistakes are asserts.

QuatrainError
+-- ConfigError       Q2xx  exit 2   a recipe, an override, a command line
+-- DataError         Q3xx  exit 3   a question file, a dataset, prepared rows
+-- CheckpointError   Q4xx  exit 4   a run or model directory
+-- NonFiniteError    Q5xx  exit 5   a loss or gradient that is not a number
+-- ResourceError     Q6xx  exit 6   disk or memory
"""

from __future__ import annotations


class QuatrainError(ValueError):
    """Something the user can mend.

    The message is printed whole, so it names what was given and the rule; `remedy` says what to do.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        help_line = f"\nhelp: {self.remedy}" if self.remedy else ""
        return f"[{self.code}] {self.message}{help_line}"


class ConfigError(QuatrainError):
    """A recipe, an override or an argument breaks a rule."""

    exit_code = 2


class DataError(QuatrainError):
    """A question file or prepared rows cannot be used."""

    exit_code = 3


class CheckpointError(QuatrainError):
    """A run or model directory is missing, damaged or refused."""

    exit_code = 4


class NonFiniteError(QuatrainError):
    """A loss or a gradient is not finite; no step was taken."""

    exit_code = 5


class ResourceError(QuatrainError):
    """The disk or the memory is too small."""

    exit_code = 6
