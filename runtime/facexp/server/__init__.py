"""The networks and the whole analysis behind the protocol that TensorFlow Serving's clients speak.

    facexp.server.serving.run(Settings(), started=print)

What a request goes through:

    rest, rpc       REST and gRPC; both only translate: `protocol` (JSON), `messages` and `tensors` (protobuf)
    access          who may ask
    limits          how much is taken at a time; the rest is refused, not queued without end
    versions        which version of the models answers, and the folder where newer ones appear
    models          what the three models take and give
    batching        the crops of several requests in one run of a network

Everything but the networks and the decoding of pictures happens in one asyncio loop, so that no state needs a lock.
Needs Starlette, uvicorn, grpcio, protobuf and prometheus-client: pip install "facexp[serve]".
"""
