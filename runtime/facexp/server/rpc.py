"""The gRPC interface: PredictionService and ModelService, as TensorFlow Serving's clients call them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from facexp.bundle import TensorSpec
from facexp.server.access import Access
from facexp.server.connections import rpc_connections
from facexp.server.errors import BadRequest, Code, DeadlineExceeded, NotFound, RequestError
from facexp.server.messages import PACKAGE, message
from facexp.server.models import DEFAULT_SIGNATURE, Signature
from facexp.server.protocol import NOT_LOADED, PREDICT_METHOD, tensor_name
from facexp.server.service import ActiveRequest, Service, Target
from facexp.server.tensors import DTYPES, Array, read_tensor, write_tensor

_PredictRequest, _PredictResponse = message("PredictRequest"), message("PredictResponse")
_MetadataRequest, _MetadataResponse = message("GetModelMetadataRequest"), message("GetModelMetadataResponse")
_StatusRequest, _StatusResponse = message("GetModelStatusRequest"), message("GetModelStatusResponse")
_SignatureDefMap, _TensorInfo, _ModelSpec = map(message, ("SignatureDefMap", "TensorInfo", "ModelSpec"))

_SIGNATURES = "signature_def"
# an HTTP connection carries one request at a time, a gRPC connection many: gRPC itself refuses calls beyond this
_CALLS_PER_QUEUE_SLOT = 4

_Handler = Callable[[Any], Awaitable[Any]]


def rpc_server(service: Service, access: Access) -> Any:
    """Return a grpc.aio server that has no port yet."""
    limits = service.limits
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.request_bytes),
            ("grpc.max_send_message_length", -1),
            # or a second server could open the same port and silently receive half of the requests
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", rpc_connections()),
        ],
        maximum_concurrent_rpcs=_CALLS_PER_QUEUE_SLOT * limits.queue,
    )
    rpc = _Rpc(service, access)
    prediction = {
        "Predict": rpc.method(_PredictRequest, rpc.predict),
        "GetModelMetadata": rpc.method(_MetadataRequest, rpc.metadata),
    }
    model = {"GetModelStatus": rpc.method(_StatusRequest, rpc.status)}
    for name, methods in (("PredictionService", prediction), ("ModelService", model)):
        handler = grpc.method_handlers_generic_handler(f"{PACKAGE}.{name}", methods)
        server.add_generic_rpc_handlers((handler,))
    return server


class _Rpc:
    def __init__(self, service: Service, access: Access) -> None:
        self._service, self._access = service, access

    def method(self, request_class: Any, handler: _Handler) -> Any:
        """Return a gRPC method handler that checks the token and turns a RequestError into its gRPC status."""

        async def answer(messages: AsyncIterator[bytes], context: Any) -> Any:
            try:
                self._access.check(dict(context.invocation_metadata() or ()).get("authorization"))
                async with self._service.request("grpc", timeout_s=context.time_remaining()) as active:
                    data = await self._read_message(messages, active)
                    with self._service.memory.holding(len(data)):
                        request = _parse(request_class, data)
                        active.model = request.model_spec.name
                        return await handler(request)
            except RequestError as refusal:
                # abort raises the exception that ends the call
                return await context.abort(grpc.StatusCode[refusal.code.name], str(refusal))

        # a client stream of one message: for a unary call grpc would wait for the message before the token is checked,
        # and without a timeout
        return grpc.stream_unary_rpc_method_handler(
            # no deserializer: grpc would send Python's error text for a malformed message to clients without a token
            answer,
            None,
            lambda response: response.SerializeToString(),
        )

    async def _read_message(self, messages: AsyncIterator[bytes], active: ActiveRequest) -> bytes:
        """Return the call's only message. Until it arrives, this is what the call ends with at its deadline."""
        late, active.reason = active.reason, DeadlineExceeded("no message arrived in time")
        try:
            data = await anext(messages)
        except StopAsyncIteration:
            raise BadRequest("the call has no message") from None
        active.reason = late
        return data

    async def predict(self, request: Any) -> Any:
        spec = request.model_spec
        target = Target(spec.name, _version(spec), spec.signature_name or DEFAULT_SIGNATURE)

        def read(signature: Signature) -> Array:
            if set(request.inputs) != {signature.input.name}:
                raise BadRequest(f"the only input must be {signature.input.name}")
            wrong = set(request.output_filter) - {output.name for output in signature.outputs}
            if wrong:
                raise BadRequest(f"output_filter: the outputs are {', '.join(o.name for o in signature.outputs)}")
            tensor = request.inputs[signature.input.name]
            array = read_tensor(tensor, signature.input.name, signature.input, self._service.limits.request_bytes)
            # a single value may fill all elements, so that a short message can request a large array
            take(max(0, array.nbytes - request.ByteSize()))
            return array

        with self._service.memory.holding() as take:
            number, _, outputs = await self._service.predict(target, read)
        answer = _PredictResponse(model_spec=_model_spec(target.model, number, target.signature))
        for name in request.output_filter or outputs:
            answer.outputs[name].CopyFrom(write_tensor(outputs[name]))
        return answer

    async def metadata(self, request: Any) -> Any:
        if list(request.metadata_field) != [_SIGNATURES]:
            raise BadRequest(f"metadata_field must be only {_SIGNATURES}")
        name = request.model_spec.name
        number, model = self._service.versions.find(name, _version(request.model_spec))
        definitions = _SignatureDefMap()
        for key, signature in model.signatures.items():
            definition = definitions.signature_def[key]
            definition.method_name = PREDICT_METHOD
            definition.inputs[signature.input.name].CopyFrom(_tensor_info(signature.input, key))
            for output in signature.outputs:
                definition.outputs[output.name].CopyFrom(_tensor_info(output, key))
        answer = _MetadataResponse(model_spec=_model_spec(name, number))
        answer.metadata[_SIGNATURES].type_url = f"type.googleapis.com/{PACKAGE}.SignatureDefMap"
        answer.metadata[_SIGNATURES].value = definitions.SerializeToString()
        return answer

    async def status(self, request: Any) -> Any:
        answer = _StatusResponse()
        for version in self._service.versions.known(request.model_spec.name, _version(request.model_spec)):
            made = answer.model_version_status.add(version=version.number, state=int(version.state))
            if version.failed:
                made.status.error_code, made.status.error_message = int(Code.INTERNAL), NOT_LOADED
            else:
                made.status.SetInParent()
        return answer


def _parse(request_class: Any, data: bytes) -> Any:
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise BadRequest(f"the message is not a valid {request_class.DESCRIPTOR.name}") from None


def _version(spec: Any) -> int | None:
    if spec.version_label:
        raise NotFound("version labels are not supported; use a version number")
    return spec.version.value if spec.HasField("version") else None


def _model_spec(name: str, version: int, signature: str = "") -> Any:
    made = _ModelSpec(name=name, signature_name=signature)
    made.version.value = version
    return made


def _tensor_info(spec: TensorSpec, signature: str) -> Any:
    info = _TensorInfo(name=tensor_name(spec, signature), dtype=DTYPES[spec.dtype][1])
    for size in (-1, *spec.row):
        info.tensor_shape.dim.add(size=size)
    return info
