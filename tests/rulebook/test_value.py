"""A changed copy is what `dataclasses.replace` makes, and leaves what it was made of as it is."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

import pytest

from psymm.rulebook.value import replace


@dataclass(frozen=True, slots=True)
class Slotted:
    price: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Open:
    price: int
    size: int = 2

    @cached_property
    def worth(self) -> int:
        return self.price * self.size


@dataclass(frozen=True, slots=True)
class Checked:
    price: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        if self.price < 0:
            raise ValueError("price")
        object.__setattr__(self, "twice", self.price * 2)


@pytest.mark.parametrize("value", [Slotted(1, ("a",)), Open(1, 7)])
def test_a_copy_has_the_changes_and_the_rest(value: Slotted | Open) -> None:
    before = dataclasses.asdict(value)
    changed = replace(value, price=5)
    assert changed == dataclasses.replace(value, price=5)
    assert type(changed) is type(value)
    assert dataclasses.asdict(value) == before
    assert replace(value) == value
    assert hash(replace(value)) == hash(value)


def test_what_was_worked_out_of_the_old_fields_is_worked_out_again() -> None:
    value = Open(3)
    assert value.worth == 6
    assert replace(value, price=4).worth == 8
    assert value.worth == 6


@pytest.mark.parametrize("value", [Slotted(1), Open(1), Checked(1)])
def test_an_unknown_field_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        replace(value, cost=5)


def test_a_value_that_checks_itself_is_checked() -> None:
    assert replace(Checked(1), price=4).twice == 8
    with pytest.raises(ValueError, match="price"):
        replace(Checked(1), price=-1)


def test_a_copy_is_as_frozen_as_its_original() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        replace(Slotted(1)).price = 2  # type: ignore[misc]
