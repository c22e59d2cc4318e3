"""User errors: a code, what came, the rule, the remedy. Bugs are assertion errors.

QuatrainError
+-- ConfigError       Q2xx  exit 2   a recipe, an override, a command line
+-- DataError         Q3xx  exit 3   a question file, a dataset, prepared rows
+-- CheckpointError   Q4xx  exit 4   a run or model directory
+-- NonFiniteError    Q5xx  exit 5   a loss or gradient that is not a number
+-- ResourceError     Q6xx  exit 6   disk or memory
+-- RankError         Q7xx  exit 7   one of several processes

Their sentences lie in `catalogue/errors.en.json` and its French twin:

    ConfigError("Q240.language", given="de", known=("en", "fr"))

    "Q240.language":         "--lang {given} is not available: Quatrain does not ..."
    "Q240.language.remedy":  "Use {known: or }."
"""

from __future__ import annotations

from quatrain.words import Sentence, catalogue, say, tell


class QuatrainError(ValueError):
    """An error that the user can correct.

    The message names what was given and the rule. `remedy` says what to do, and may be empty. Both
    are English; `str` uses the current language.
    """

    exit_code = 1

    def __init__(self, key: str, /, **values: object) -> None:
        super().__init__(key)
        self.key = key
        self.values = values

    @property
    def code(self) -> str:
        """The code, such as Q240: the same in every language."""
        return self.key.partition(".")[0]

    @property
    def message(self) -> Sentence:
        """What came, and the rule."""
        return Sentence.of(f"errors.{self.key}", **self.values)

    @property
    def remedy(self) -> str:
        """What to do."""
        known = f"{self.key}.remedy" in catalogue("errors", "en")
        return Sentence.of(f"errors.{self.key}.remedy", **self.values) if known else ""

    def __str__(self) -> str:
        remedy = self.remedy
        help_line = "\n" + say("errors.help", remedy=remedy) if remedy else ""
        return f"[{self.code}] {tell(self.message)}{help_line}"


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


class RankError(QuatrainError):
    """Of the processes that train together, one has failed, or differs from the others."""

    exit_code = 7
