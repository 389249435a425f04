"""One type for each carried column, over all files. Parquet brings its own, and none where a file leaves the column empty.

Knows nothing of rows.
"""

from collections.abc import Iterable

import pyarrow as pa

from capfilt.config.read import Source
from capfilt.errors import InputError
from capfilt.sources.names import TYPES, keep_type


def carried(config: Source, schema: pa.Schema | None = None) -> pa.StructType:
    """The carried columns of a Parquet file with this schema, in their order; without one, of a file that has no types."""
    fields = []
    for name in config.keep_columns:
        kind = TYPES[keep_type(name, config.keep_types)] if schema is None else schema.field(name).type
        fields.append((name, kind.value_type if pa.types.is_dictionary(kind) else kind))
    return pa.struct(fields)


def united(found: Iterable[tuple[str, pa.StructType]]) -> pa.StructType:
    """The type that takes the values of all: text beside nothing is text, whole numbers beside fractions are fractions.

    Args:
        found: A file's path and its carried columns.

    Raises:
        InputError: If two files have types of which none takes the other's values; names both.
    """
    types: dict[str, tuple[pa.DataType, str]] = {}
    seen: set[pa.StructType] = set()
    for path, columns in found:
        if columns in seen:
            continue
        seen.add(columns)
        for field in columns:
            before, first = types.get(field.name, (field.type, path))
            both = _both(before, field.type)
            if both is None:
                raise InputError(
                    f"read.keep_columns: expected one type of `{field.name}` in all files, found {before} in `{first}` and "
                    f"{field.type} in `{path}`. Write them alike, or take it out of read.keep_columns"
                )
            types[field.name] = (both, first if both == before else path)
    return pa.struct([(name, kind) for name, (kind, _) in types.items()])


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other:
        return one
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        for kind in (one, other):
            pa.nulls(1, kind).cast(both)  # not all that Arrow unites can it cast, as decimals
    except pa.ArrowException:
        return None
    return both
