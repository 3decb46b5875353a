"""The protocol's names of element types."""

import numpy as np

from midstream_engine.schema import NUMPY_TYPES, Array

DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "string",
}
"""Names of fields' types (keys of `schema.NUMPY_TYPES`) by the protocol's."""

DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

WIRE = {
    datatype: NUMPY_TYPES[dtype].newbyteorder("<")
    for datatype, dtype in DTYPES.items()
    if dtype != "string"
}
"""What binary tensors hold, little-endian; BYTES has a form of its own."""


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's element type; objects are strings."""
    if array.dtype.kind in "OU":
        return "BYTES"
    return DATATYPES[np.dtype(array.dtype).name]
