"""Batches in the forms that loaders give, and tables of examples, as inputs by name and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cimc.errors import CimcError, DataError

#: Keys under which a batch or a table may hold the labels.
LABELS = ("labels", "label", "y", "targets", "target")


def inputs_and_labels(item: Any, names: Sequence[str], labelled: bool, where: str) -> tuple[Any, Any]:
    """One batch as inputs (an array, or arrays by name) and labels (None where the model computes its loss).

    Args:
        item: ``(x, y)`` with ``x`` an array or arrays by name; ``(x1, x2, …, y)`` or ``((x1, x2, …), y)`` in the order of the
            model's inputs; a dict of inputs by name and labels, under a key of `LABELS`. Where the model computes its loss the
            labels are left out.
        names: Of the model's inputs.
        labelled: Whether the loss takes labels.
        where: What errors call the batch.

    Raises:
        DataError: It is none of these; the names of the model's inputs are told.
    """
    if isinstance(item, Mapping):
        return _by_name(item, names, labelled, where)
    if not isinstance(item, tuple | list):
        if not labelled:
            return item, None
        raise DataError(f"is a {type(item).__name__}", where=where, fix=_forms(names, labelled))
    if not labelled and len(names) > 1 and len(item) == len(names):
        return dict(zip(names, item, strict=True)), None
    if len(item) == 2:
        x = item[0]
        if isinstance(x, tuple | list) and len(names) > 1:
            if len(x) != len(names):
                raise DataError(f"has {len(x)} inputs", where=where, fix=_forms(names, labelled))
            x = dict(zip(names, x, strict=True))
        return x, item[1]
    if labelled and len(item) == len(names) + 1:
        return dict(zip(names, item, strict=False)), item[-1]
    if not labelled and len(names) == 1 and len(item) != 1:
        return item, None
    if not labelled and len(item) == 1:
        return item[0], None
    raise DataError(f"has {len(item)} parts", where=where, fix=_forms(names, labelled))


def is_table(given: Any) -> bool:
    """Whether it is a table of examples as Hugging Face's ``datasets.Dataset`` is one: columns by name."""
    return all(hasattr(given, word) for word in ("column_names", "select_columns", "with_format")) and hasattr(given, "__len__")


def columns(table: Any, names: Sequence[str], labelled: bool) -> tuple[dict[str, Any], Any]:
    """The columns of a table that the model takes, as arrays, and the labels.

    Raises:
        DataError: A column is missing, several could be the labels, or its rows have different lengths.
        CimcError: It is several tables by name, or a stream of examples.
    """
    held = table.column_names
    if isinstance(held, Mapping):
        part = next(iter(held), "train")
        raise CimcError(f"these are several tables: {', '.join(held)}", where="data", fix=f'give one of them: data["{part}"]')
    own, label = _split_keys(held or (), names, labelled, "data")
    wanted = [*own, *([label] if label is not None else [])]
    found = table.select_columns(wanted).with_format("numpy")[:]
    for name in wanted:
        found[name] = np.asarray(found[name])
        if found[name].dtype == object and not all(isinstance(value, str) for value in found[name].reshape(-1)[:1]):
            what = "its rows differ in length"
            raise DataError(what, where=f"data, column {name}", fix="pad them: tokenizer(…, padding='max_length')")
    return {name: found[name] for name in own}, None if label is None else found[label]


def check_stream_of_tables(given: Any) -> None:
    """Refuse what gives single examples, or several tables.

    Raises:
        CimcError: It does.
    """
    if isinstance(given, Mapping) and given and all(is_table(value) for value in given.values()):
        name = next(iter(given))
        raise CimcError(f"these are several tables: {', '.join(given)}", where="data", fix=f'give one of them: data["{name}"]')
    if hasattr(given, "column_names") and hasattr(given, "with_format"):
        fix = "torch.utils.data.DataLoader(data.with_format('torch'), batch_size=64)"
        raise CimcError(f"a {type(given).__name__} gives single examples, not batches", where="data", fix=fix)


def _by_name(item: Mapping[str, Any], names: Sequence[str], labelled: bool, where: str) -> tuple[dict[str, Any], Any]:
    own, label = _split_keys(list(item), names, labelled, where, also=True)
    return {name: item[name] for name in own}, None if label is None else item[label]


def _split_keys(
    keys: Sequence[str], names: Sequence[str], labelled: bool, where: str, also: bool = False
) -> tuple[list[str], str | None]:  # fmt: skip
    """Keys of inputs, and that of the labels; with ``also``, further keys are refused."""
    fix, shown = _forms(names, labelled), ", ".join(map(str, keys)) or "nothing"
    if missing := [name for name in names if name not in keys]:
        raise DataError(f"holds {shown}, and no {', '.join(missing)}", where=where, fix=fix)
    rest = [key for key in keys if key not in names]
    labels = [key for key in rest if key in LABELS] if labelled else []
    if labelled and len(labels) != 1:
        what = f"holds {shown}: " + (f"{' and '.join(labels)} may be the labels" if labels else "no labels")
        raise DataError(what, where=where, fix=fix)
    if also and (other := [key for key in rest if key not in labels]):
        raise DataError(f"holds {', '.join(map(str, other))}, which the model does not take", where=where, fix=fix)
    return list(names), labels[0] if labels else None


def _forms(names: Sequence[str], labelled: bool) -> str:
    labels = f", and labels under one of {', '.join(LABELS)}" if labelled else ""
    order = ", ".join((*names, "y")) if labelled else ", ".join(names)
    return f"the model's inputs are {', '.join(names)}: yield a dict of these{labels}; or ({order})"
