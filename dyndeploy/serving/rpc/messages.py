"""The protocol's gRPC messages, described here and made at import.

Generated code would tie every installation to the range of protobuf that its generator knows; and tritonclient, whose
package has the messages too, is a client with pins of its own. They live in a pool of their own, so that a process
may import that client as well. A test compares every field with the client's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# Message -> its fields, "number name type", with "*" behind a type for a list, "{}" behind it for a map from string,
# and "|" before the line for the members of the only oneof. A type that is none of protobuf's is a message or enum.
_MESSAGES: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 live bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": "1 name string; 2 version string",
    "ModelReadyResponse": "1 ready bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 name string; 2 version string; 3 extensions string*",
    "ModelMetadataRequest": "1 name string; 2 version string",
    "ModelMetadataResponse": (
        "1 name string; 2 versions string*; 3 platform string; 4 inputs ModelMetadataResponse.TensorMetadata*; "
        "5 outputs ModelMetadataResponse.TensorMetadata*"
    ),
    "ModelMetadataResponse.TensorMetadata": "1 name string; 2 datatype string; 3 shape int64*",
    "InferParameter": (
        "|1 bool_param bool; |2 int64_param int64; |3 string_param string; |4 double_param double; "
        "|5 uint64_param uint64"
    ),
    "InferTensorContents": (
        "1 bool_contents bool*; 2 int_contents int32*; 3 int64_contents int64*; 4 uint_contents uint32*; "
        "5 uint64_contents uint64*; 6 fp32_contents float*; 7 fp64_contents double*; 8 bytes_contents bytes*"
    ),
    "ModelInferRequest": (
        "1 model_name string; 2 model_version string; 3 id string; 4 parameters InferParameter{}; "
        "5 inputs ModelInferRequest.InferInputTensor*; 6 outputs ModelInferRequest.InferRequestedOutputTensor*; "
        "7 raw_input_contents bytes*"
    ),
    "ModelInferRequest.InferInputTensor": (
        "1 name string; 2 datatype string; 3 shape int64*; 4 parameters InferParameter{}; "
        "5 contents InferTensorContents"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": "1 name string; 2 parameters InferParameter{}",
    "ModelInferResponse": (
        "1 model_name string; 2 model_version string; 3 id string; 4 parameters InferParameter{}; "
        "5 outputs ModelInferResponse.InferOutputTensor*; 6 raw_output_contents bytes*"
    ),
    "ModelInferResponse.InferOutputTensor": (
        "1 name string; 2 datatype string; 3 shape int64*; 4 parameters InferParameter{}; "
        "5 contents InferTensorContents"
    ),
    "ModelStreamInferResponse": "1 error_message string; 2 infer_response ModelInferResponse",
    "ModelConfigRequest": "1 name string; 2 version string",
    "ModelConfigResponse": "1 config ModelConfig",
    "ModelStatisticsRequest": "1 name string; 2 version string",
    "StatisticDuration": "1 count uint64; 2 ns uint64",
    "InferStatistics": (
        "1 success StatisticDuration; 2 fail StatisticDuration; 3 queue StatisticDuration; "
        "4 compute_input StatisticDuration; 5 compute_infer StatisticDuration; 6 compute_output StatisticDuration"
    ),
    "InferBatchStatistics": (
        "1 batch_size uint64; 2 compute_input StatisticDuration; 3 compute_infer StatisticDuration; "
        "4 compute_output StatisticDuration"
    ),
    "ModelStatistics": (
        "1 name string; 2 version string; 3 last_inference uint64; 4 inference_count uint64; "
        "5 execution_count uint64; 6 inference_stats InferStatistics; 7 batch_stats InferBatchStatistics*"
    ),
    "ModelStatisticsResponse": "1 model_stats ModelStatistics*",
    "ModelRepositoryParameter": (
        "|1 bool_param bool; |2 int64_param int64; |3 string_param string; |4 bytes_param bytes"
    ),
    "RepositoryIndexRequest": "1 repository_name string; 2 ready bool",
    "RepositoryIndexResponse": "1 models RepositoryIndexResponse.ModelIndex*",
    "RepositoryIndexResponse.ModelIndex": "1 name string; 2 version string; 3 state string; 4 reason string",
    "RepositoryModelLoadRequest": (
        "1 repository_name string; 2 model_name string; 3 parameters ModelRepositoryParameter{}"
    ),
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": (
        "1 repository_name string; 2 model_name string; 3 parameters ModelRepositoryParameter{}"
    ),
    "RepositoryModelUnloadResponse": "",
    # Of the model's configuration, what is filled in.
    "ModelConfig": (
        "1 name string; 2 platform string; 17 backend string; 4 max_batch_size int32; 5 input ModelInput*; "
        "6 output ModelOutput*; |11 dynamic_batching ModelDynamicBatching; 7 instance_group ModelInstanceGroup*; "
        "8 default_model_filename string; 14 parameters ModelParameter{}"
    ),
    "ModelInput": "1 name string; 2 data_type DataType; 4 dims int64*",
    "ModelOutput": "1 name string; 2 data_type DataType; 3 dims int64*",
    "ModelDynamicBatching": "1 preferred_batch_size int32*; 2 max_queue_delay_microseconds uint64",
    "ModelInstanceGroup": "1 name string; 4 kind ModelInstanceGroup.Kind; 2 count int32",
    "ModelParameter": "1 string_value string",
}
_ONEOFS = {
    "InferParameter": "parameter_choice",
    "ModelRepositoryParameter": "parameter_choice",
    "ModelConfig": "scheduling_choice",
}
_ENUMS: dict[str, str] = {
    "DataType": ("INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"),
    "ModelInstanceGroup.Kind": "AUTO GPU CPU MODEL",
}
_ENUM_PREFIX = {"DataType": "TYPE_", "ModelInstanceGroup.Kind": "KIND_"}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "uint32": _Field.TYPE_UINT32,
}


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="dyndeploy/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, own = name.rpartition(".")
        message = (made[outer].nested_type if outer else file.message_type).add(name=own)
        made[name] = message
        if name in _ONEOFS:
            message.oneof_decl.add(name=_ONEOFS[name])
        for text in filter(None, fields.split("; ")):
            _add_field(message, name, text)
    for name, values in _ENUMS.items():
        outer, _, own = name.rpartition(".")
        enum = (made[outer] if outer else file).enum_type.add(name=own)
        for number, value in enumerate(values.split()):
            enum.value.add(name=_ENUM_PREFIX[name] + value, number=number)
    return file


def _add_field(message: Any, holder: str, text: str) -> None:
    number, name, kind = text.lstrip("|").split()
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if text.startswith("|"):
        field.oneof_index = 0
    if kind.endswith("{}"):
        # A map is a list of pairs.
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, holder, "1 key string")
        _add_field(entry, holder, f"2 value {kind[:-2]}")
        kind = f"{holder}.{entry.name}*"
    if kind.endswith("*"):
        kind = kind[:-1]
        field.label = _Field.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind in _ENUMS else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())


def message(name: str) -> Any:
    """The class of a message, by its name in the protocol."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
