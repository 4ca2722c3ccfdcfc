"""The messages of an ONNX file, read and written by protobuf alone, without the package onnx.

Inference needs ONNX Runtime or OpenVINO, and neither contains a reader of the file. Fields that are
not listed here are dropped when a file is read, so what is written again is what was looked at.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.packages import require

if TYPE_CHECKING:
    from google.protobuf.message import Message

# Message, then its fields: number, kind (* for many), name. Kinds that begin with a capital letter are messages. Fields
# whose content is never read are declared as bytes.
_MESSAGES = {
    "ModelProto": "1 int64 ir_version; 2 string producer_name; 3 string producer_version; 7 GraphProto graph; "
    "8 *OperatorSetIdProto opset_import; 14 *StringStringEntryProto metadata_props; 20 *bytes training_info; "
    "25 *bytes functions",
    "GraphProto": "1 *NodeProto node; 2 string name; 5 *TensorProto initializer; 11 *ValueInfoProto input; "
    "12 *ValueInfoProto output; 15 *bytes sparse_initializer",
    "NodeProto": "1 *string input; 2 *string output; 3 string name; 4 string op_type; 5 *AttributeProto attribute; "
    "7 string domain",
    "AttributeProto": "1 string name; 2 float f; 3 int64 i; 4 bytes s; 5 TensorProto t; 7 *float floats; "
    "8 *int64 ints; 20 int32 type; 21 string ref_attr_name",
    "TensorProto": "1 *int64 dims; 2 int32 data_type; 4 *float float_data; 5 *int32 int32_data; 7 *int64 int64_data; "
    "8 string name; 9 bytes raw_data; 10 *double double_data; 13 *bytes external_data; 14 int32 data_location",
    "ValueInfoProto": "1 string name; 2 TypeProto type",
    "TypeProto": "1 TensorTypeProto tensor_type",
    "TensorTypeProto": "1 int32 elem_type; 2 TensorShapeProto shape",
    "TensorShapeProto": "1 *DimensionProto dim",
    "DimensionProto": "1 int64 dim_value; 2 string dim_param",
    "OperatorSetIdProto": "1 string domain; 2 int64 version",
    "StringStringEntryProto": "1 string key; 2 string value",
}
_PACKED = ("float_data", "int32_data", "int64_data", "double_data")

# How the values of a tensor are stored: their type, and the field where they are if they are not raw bytes.
_STORED = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
}


def read_model(content: bytes) -> Message:
    """Read an ONNX file.

    Raises
    ------
    InputError
        If the package protobuf is missing, or cannot be imported.
    ValueError
        If this is not such a file.
    """
    model = message("ModelProto")
    try:
        model.ParseFromString(content)
    except MemoryError:
        raise
    except Exception as error:  # protobuf has several
        raise ValueError("not an ONNX file") from error
    model.DiscardUnknownFields()
    return model


def message(kind: str, /, **fields: object) -> Message:
    """Make a message of ONNX; `kind` is onnx's name for it."""
    return _classes()[kind](**fields)


def to_array(tensor: Message) -> np.ndarray:
    """Return the values of a tensor.

    Raises
    ------
    ValueError, OverflowError
        If they are of a type that networks do not need, do not fit it, or are not as many as its shape says.
    """
    if tensor.data_type not in _STORED:
        raise ValueError(f"the type {tensor.data_type} is not known")
    dtype, field = _STORED[tensor.data_type]
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype).reshape(tensor.dims)
    stored = np.array(getattr(tensor, field), np.uint16 if dtype == "<f2" else dtype)
    return stored.view(dtype).reshape(tensor.dims)


def from_array(values: np.ndarray, name: str) -> Message:
    """Make a tensor of float32 or int64 values."""
    kind = {"f": 1, "i": 7}[values.dtype.kind]
    raw = np.ascontiguousarray(values, _STORED[kind][0]).tobytes()
    return message("TensorProto", name=name, dims=values.shape, data_type=kind, raw_data=raw)


@functools.cache
def _classes() -> dict[str, type]:
    """Declare the messages to protobuf, in a pool of their own beside that of the package onnx."""
    require("google.protobuf", "protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="onnx-subset.proto", package="onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for number, kind, field in (text.split() for text in fields.split(";")):
            many, kind = kind.startswith("*"), kind.lstrip("*")
            added = declared.field.add(name=field, number=int(number))
            added.label = field_kinds.LABEL_REPEATED if many else field_kinds.LABEL_OPTIONAL
            if field in _PACKED:
                added.options.packed = True
            if kind in _MESSAGES:
                added.type, added.type_name = field_kinds.TYPE_MESSAGE, f".onnx.{kind}"
            else:
                added.type = getattr(field_kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {name: make(pool.FindMessageTypeByName(f"onnx.{name}")) for name in _MESSAGES}
