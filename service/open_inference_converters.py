"""gRPC messages of the Open Inference Protocol to its values and back. Only whether they add up is decided here."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidRequest
from service.open_inference_tensors import InferReply, InferRequest, Input, Output, Parameters, tensor_of
from service.proto.inference import open_inference_pb2 as oip


def request_from_message(message: oip.ModelInferRequest) -> InferRequest:
    """The request that a message carries. Raises InvalidRequest when contents and inputs do not belong together."""
    raw = list(message.raw_input_contents)
    if raw and (len(raw) != len(message.inputs) or any(tensor.HasField("contents") for tensor in message.inputs)):
        raise InvalidRequest("send one raw_input_contents for each input and no contents, or only contents")
    for tensor in message.inputs:
        if tensor.parameters:
            raise InvalidRequest("an input has parameters: none is known here, shared memory is not served")
    inputs = [
        tensor_of(tensor.name, tensor.datatype, tuple(tensor.shape), raw[index]) if raw else _typed(tensor)
        for index, tensor in enumerate(message.inputs)
    ]
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        parameters=parameters_from_message(message.parameters),
        inputs=tuple(inputs),
        outputs=tuple(output.name for output in message.outputs),
    )


def reply_to_message(reply: InferReply, *, raw: bool) -> oip.ModelInferResponse:
    """A reply as the wire has it: its numbers raw, or in the fields of their datatypes."""
    return oip.ModelInferResponse(
        model_name=reply.model,
        model_version=reply.version,
        id=reply.id,
        outputs=[
            oip.ModelInferResponse.InferOutputTensor(
                name=output.name,
                datatype=output.datatype,
                shape=output.shape,
                parameters={name: oip.InferParameter(string_param=text) for name, text in output.parameters.items()},
                contents=None if raw else _contents(output),
            )
            for output in reply.outputs
        ],
        raw_output_contents=[output.raw() for output in reply.outputs] if raw else [],
    )


def parameters_from_message(parameters: Mapping[str, oip.InferParameter]) -> Parameters:
    """Parameters as plain values; one without a value is None."""
    found: dict[str, object] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    return found


def _typed(tensor: oip.ModelInferRequest.InferInputTensor) -> Input:
    used = {"BYTES": "bytes_contents", "UINT8": "uint_contents"}.get(tensor.datatype, "")
    if any(field.name != used for field, _ in tensor.contents.ListFields()):
        raise InvalidRequest(
            f"the contents of a {'BYTES or UINT8' if not used else tensor.datatype} tensor belong "
            f"into {used or 'bytes_contents or uint_contents'}"
        )
    values: Any = list(tensor.contents.bytes_contents)
    if tensor.datatype != "BYTES":
        try:
            values = bytes(tensor.contents.uint_contents)
        except ValueError:
            raise InvalidRequest("a UINT8 element is above 255") from None
    return Input(tensor.name, tensor.datatype, tuple(tensor.shape), values)


def _contents(output: Output) -> oip.InferTensorContents:
    match output.datatype:
        case "BYTES":
            return oip.InferTensorContents(bytes_contents=[str(value).encode() for value in output.values])
        case "BOOL":
            return oip.InferTensorContents(bool_contents=[bool(value) for value in output.values])
        case _:
            return oip.InferTensorContents(fp32_contents=output.values.ravel())  # type: ignore[union-attr]
