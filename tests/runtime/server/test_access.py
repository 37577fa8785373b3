"""Who may send requests: this machine by default, and others only with a token or a certificate."""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from facexp.server.access import Access, ServerError, Tls, read_token
from facexp.server.messages import message

TOKEN = "correct-horse-battery"
STATUS = "/v1/models/emotion"


def grpc_status(channel: grpc.Channel, **metadata: str) -> Any:
    call = channel.unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message("GetModelStatusResponse").FromString,
    )
    request = message("GetModelStatusRequest")()
    request.model_spec.name = "emotion"
    with channel:
        return call(request, timeout=60, metadata=tuple(metadata.items()))


def test_only_loopback_is_served_by_default(server: Any, start: Callable[..., Any]) -> None:
    """Guards the network: no access from elsewhere without a token, nor for a web page by a host name of its own."""
    assert server.ports.rest.startswith("http://127.0.0.1:")
    assert not server.ports.public
    assert server.ask("/", Host="localhost:8501").status == 200
    assert server.ask(STATUS, Host="faces.example").status == 400
    for access in (Access(), Access(tls=Tls(Path("cert.pem"), Path("key.pem")))):
        with pytest.raises(ServerError, match=r"^0\.0\.0\.0 can be reached from other machines: give a token"):
            start(host="0.0.0.0", access=access)


def test_a_token_is_required_by_both_protocols(start: Callable[..., Any]) -> None:
    """Guards whatever reveals something: it requires the token; the page itself and the health checks do not."""
    server = start(host="0.0.0.0", access=Access(TOKEN))
    assert server.ports.public
    for path, body in ((STATUS, None), (f"{STATUS}/metadata", None), (f"{STATUS}:predict", {}), ("/metrics", None)):
        for wrong in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer é"},
        ):
            answer = server.ask(path, body, **wrong)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN not in answer.body.decode()
        # HTTP allows the scheme's name in upper and lower case
        for scheme in ("Bearer", "bearer"):
            assert server.ask(path, body, Authorization=f"{scheme} {TOKEN}").status == (200 if body is None else 400)
    for path in ("/", "/page.js", "/healthz", "/readyz"):
        assert server.ask(path).status == 200
    with pytest.raises(grpc.RpcError) as refused:
        grpc_status(grpc.insecure_channel(server.ports.grpc), authorization="Bearer wrong")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    answer = grpc_status(grpc.insecure_channel(server.ports.grpc), authorization=f"Bearer {TOKEN}")
    assert answer.model_version_status[0].state == 30
    with grpc.insecure_channel(server.ports.grpc) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for shown, code in ((f"Bearer {TOKEN}", "INVALID_ARGUMENT"), ("Bearer wrong", "UNAUTHENTICATED")):
            with pytest.raises(grpc.RpcError) as refused:
                predict(b"\xff", timeout=60, metadata=(("authorization", shown),))
            assert refused.value.code().name == code
            assert "Error" not in refused.value.details()


def test_mutual_tls_requires_a_client_certificate(start: Callable[..., Any], certificates: Path) -> None:
    """Guards both protocols: without a certificate signed by the authority there is no connection."""
    authority, own = certificates / "authority.pem", (certificates / "client.pem", certificates / "client.key")
    tls = Tls(certificates / "server.pem", certificates / "server.key", authority)
    server = start(host="0.0.0.0", access=Access(tls=tls))
    address = server.ports.rest.replace("0.0.0.0", "127.0.0.1")
    assert address.startswith("https://")
    context = ssl.create_default_context(cafile=authority)
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(address + STATUS, context=context, timeout=60).read()
    context.load_cert_chain(*own)
    with urllib.request.urlopen(address + STATUS, context=context, timeout=60) as answer:
        assert answer.status == 200
    target = server.ports.grpc.replace("0.0.0.0", "127.0.0.1")
    roots, (certificate, key) = authority.read_bytes(), (each.read_bytes() for each in own)
    with pytest.raises(grpc.RpcError) as refused:
        grpc_status(grpc.secure_channel(target, grpc.ssl_channel_credentials(roots)))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    assert grpc_status(grpc.secure_channel(target, credentials)).model_version_status[0].state == 30


def test_invalid_tokens_are_refused(tmp_path: Path) -> None:
    """Guards against a token that can be guessed, or that no header can carry."""
    with pytest.raises(ServerError, match="has 15 characters: give at least 16"):
        Access("x" * 15)
    for token in ("x" * 15 + "é", "x" * 8 + " " + "x" * 8, "x" * 20 + "\n"):
        with pytest.raises(ServerError, match="printable ASCII"):
            Access(token)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    assert TOKEN not in repr(Access(TOKEN))
    with pytest.raises(ServerError, match="the token cannot be read"):
        read_token(tmp_path / "none")


def test_unusable_certificates_are_refused_at_the_start(
    start: Callable[..., Any], certificates: Path, tmp_path: Path
) -> None:
    """Guards the start: a one-line error instead of a server that no client can connect to."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    pem, key, none = certificates / "server.pem", certificates / "server.key", tmp_path / "none.pem"
    for tls in (Tls(none, key), Tls(pem, none), Tls(pem, key, none)):
        with pytest.raises(ServerError, match=f"^{none}: cannot be read"):
            start(access=Access(tls=tls))
    for tls, named in ((Tls(broken, key), f"{broken}, {key}"), (Tls(pem, key, broken), f"{pem}, {key}, {broken}")):
        with pytest.raises(ServerError, match=f"^{named}: cannot be used as certificate and key"):
            start(access=Access(tls=tls))


def test_a_port_in_use_is_refused(server: Any, start: Callable[..., Any]) -> None:
    """Guards both ports: a second server must not share one silently."""
    rest, rpc = (int(address.rpartition(":")[2]) for address in (server.ports.rest, server.ports.grpc))
    with pytest.raises(ServerError, match=rf"^cannot listen on 127\.0\.0\.1, port {rest}: "):
        start(rest_port=rest)
    with pytest.raises(ServerError, match=rf"^cannot listen on 127\.0\.0\.1, port {rpc}: "):
        start(grpc_port=rpc)
