"""Finding a validator by its name."""

from collections.abc import Sequence

from effopd.errors import ConfigurationError
from effopd.extrapolation.next_rollouts import NextRolloutsValidator
from effopd.extrapolation.validation import (
    RewardFunction,
    RewardValidator,
    SharedKLValidator,
    TeacherKLValidator,
    Validator,
)

VALIDATORS: dict[str, type[Validator]] = {
    "teacher_kl": TeacherKLValidator,
    "shared_kl": SharedKLValidator,
    "next_rollouts": NextRolloutsValidator,
}


def make_validator(
    validator: str | Validator, reward: RewardFunction | Sequence[RewardFunction] | None = None
) -> Validator:
    """Make the validator of a name, `reward` or one of `VALIDATORS`, or return the one that is given.

    Raises:
        ConfigurationError: The object is no `Validator`, or a reward is given to a validator that does not use it.
    """
    if validator == "reward":
        return RewardValidator(reward)
    if reward is not None:
        name = validator if isinstance(validator, str) else type(validator).__name__
        raise ConfigurationError(
            f"A reward was given, and the validator {name} does not use it. Leave reward out, or choose "
            "validator='reward'."
        )
    if isinstance(validator, str):
        return VALIDATORS[validator]()
    if not isinstance(validator, Validator):
        raise ConfigurationError(
            f"validator={validator!r}: expected a name, or an object of a class derived from effopd's Validator."
        )
    return validator
