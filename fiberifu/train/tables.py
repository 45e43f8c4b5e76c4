"""Tables of a recipe: ``values -> frozen dataclass``, with words for what does not fit."""

import dataclasses

__all__ = ["from_table"]


def from_table(cls, name, values):
    """Settings from a table of a recipe.

    Parameters
    ----------
    cls : type
        A dataclass whose fields all have defaults, of the types that are wanted.
    name : str
        Of the table.
    values : dict

    Returns
    -------
    cls

    Raises
    ------
    ValueError
        For an unknown name, a value of the wrong type, and what ``cls`` itself refuses.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    if not isinstance(values, dict):
        raise ValueError(f"{name}: got {values!r}; a table [{name}] is needed")
    if extra := sorted(set(values) - set(defaults)):
        raise ValueError(f"{name}: unknown names {extra}; known: {sorted(defaults)}")
    for key, value in values.items():
        kind = type(defaults[key])
        fits = isinstance(value, (int, float) if kind is float else kind)
        if isinstance(value, bool) != (kind is bool) or not fits:  # bool is int, to Python
            raise ValueError(f"{name}.{key}: got {value!r}; a {kind.__name__} is needed")
    return cls(**values)
