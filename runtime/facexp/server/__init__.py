"""A server for the networks and for the full photo analysis, compatible with TensorFlow Serving's clients.

    facexp.server.serving.run(Settings(), started=print)

The modules that a request passes through:

    rest, rpc       REST and gRPC; both only translate: `protocol` (JSON), `messages` and `tensors` (protobuf)
    access          authentication: which clients get an answer
    limits          how much is accepted at a time; anything beyond is refused, not queued without bound
    versions        the version of the models that answers, and the folder that is watched for newer versions
    models          the three models with their inputs and outputs
    batching        batches: the crops of several requests in one run of a network

Only the networks, the decoding of pictures and the loading of versions run in threads of their own. Everything else
runs in one asyncio loop, so that no state needs a lock.
Needs Starlette, uvicorn, grpcio, protobuf and prometheus-client: pip install "facexp[serve]".
"""
