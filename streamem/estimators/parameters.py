"""Constructor parameters as scikit-learn expects them: get, set, show; no scikit-learn needed."""

from __future__ import annotations

import inspect
from typing import Any, Self

from streamem.errors import InputError

__all__ = ["Parameterised"]


class Parameterised:
    """An object whose settings are exactly the keyword arguments of its constructor."""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor parameters by name; nothing is nested, so ``deep`` changes nothing."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters by name and return the estimator.

        Raises
        ------
        InputError
            If a name is not a parameter.
        """
        for name, value in params.items():
            if name not in self._names():
                raise InputError(
                    f"{type(self).__name__}: no parameter {name!r}. Choose from {', '.join(self._names())}."
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Say to scikit-learn, which alone asks, what kind of estimator this is."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="density_estimator", target_tags=TargetTags(required=False), input_tags=InputTags()
        )

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        shown = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default and not _equal(value, defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, (str, int, float, tuple)) and value == default
