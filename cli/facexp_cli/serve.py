"""`facexp serve`: the models behind TensorFlow Serving's REST and gRPC interfaces, and a page for a browser."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import click

from facexp_cli.console import notes, quiet_libraries, stderr_message
from facexp_cli.extras import require
from facexp_cli.options import BACKEND, BUNDLE, DEVICE, EMOTIONS, LABELS, THREADS, Finite, PathName

if TYPE_CHECKING:
    from facexp.server.serving import Ports, Settings

_FILE = PathName(dir_okay=False)


@click.command("serve", context_settings={"show_default": True})
@click.option(
    "--bundle",
    type=BUNDLE,
    metavar="DIR",
    help="A model bundle, or a folder of version folders (DIR/1, DIR/2 ...) with a bundle each, of which the newest "
    "answers as soon as it appears.  [default: the models inside facexp]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on; one that other machines reach needs a token or --tls-clients.",
)
@click.option("--rest-port", type=click.IntRange(0, 65535), default=8501, metavar="PORT", help="REST and the page.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8500, metavar="PORT", help="gRPC.")
@click.option(
    "--token-file",
    type=_FILE,
    metavar="FILE",
    help="Clients must show the token in FILE, or the one in the environment variable FACEXP_TOKEN.",
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Encrypt: the server's certificate, PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key, PEM.")
@click.option(
    "--tls-clients", type=_FILE, metavar="FILE", help="Clients must show a certificate signed by this authority, PEM."
)
@click.option("--device", type=DEVICE, default="auto", help="Where the networks run.")
@click.option("--backend", type=BACKEND, default="onnxruntime", help="What runs the networks.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "float16", "float32", "exact"]),
    help="Precision of the model files; exact: each network's most exact file.  [default: int8 on the CPU, exact on "
    "CUDA]",
)
@click.option(
    "--threads", type=THREADS, metavar="N", help="Use at most N CPU threads for each network.  [default: all cores]"
)
@click.option(
    "--emotions",
    type=EMOTIONS,
    help="For the model faces.  [default: the bundle's labels, seven in the shipped models]",
)
@click.option("--labels", type=LABELS, help="For the model faces.  [default: the bundle's first]")
@click.option("--min-score", type=Finite(0, 1), default=0.5, help="For the model faces: the lowest detector score.")
@click.option(
    "--min-face", type=Finite(0), default=0.0, metavar="PIXELS", help="For the model faces: leave out smaller faces."
)
@click.option(
    "--max-faces", type=click.IntRange(1), metavar="N", help="For the model faces: keep the N largest faces of a photo."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, metavar="N", help="At most N crops in a batch; 1: no batching."
)
@click.option(
    "--batch-wait",
    type=Finite(0, 10_000),
    default=0.0,
    metavar="MS",
    help="Wait up to MS for more crops when a batch is not full; 0 takes only those that came while the network ran.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 1_000_000),
    default=256,
    metavar="N",
    help="Accept at most N open requests for each model; refuse the next.",
)
@click.option(
    "--max-request", type=click.IntRange(1, 1024), default=16, metavar="MIB", help="A larger request is refused."
)
@click.option(
    "--max-pixels",
    type=Finite(0, 250, min_open=True),
    default=50.0,
    metavar="MP",
    help="A picture of more megapixels is refused.",
)
@click.option(
    "--timeout",
    type=Finite(0, 3600, min_open=True),
    default=30.0,
    metavar="SECONDS",
    help="Abort requests that take longer.",
)
@click.option(
    "--drain",
    type=Finite(0, 3600, min_open=True),
    default=30.0,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C, wait at most SECONDS for the accepted requests to be answered.",
)
def serve_command(**given: Any) -> None:
    """Serve the models keypoints, emotion and faces to TensorFlow Serving's clients, and a page at /.

    faces takes photos and answers with the records of facexp infer. On SIGTERM or Ctrl-C it answers the requests it has
    accepted, then ends. Exit status: 0 ended on request, 1 could not start, 2 wrong usage.
    """
    require("serve", "starlette", "uvicorn", "grpc", "google.protobuf", "prometheus_client")
    from facexp.errors import FacexpError
    from facexp.server.serving import run

    with quiet_libraries(), notes(logging.INFO):
        try:
            ended = run(_settings(given), _started)
        except (FacexpError, ValueError) as error:
            raise click.ClickException(str(error)) from None
    if not ended:
        # Python would wait for the thread that still works
        os._exit(0)


def _settings(given: dict[str, Any]) -> Settings:
    from facexp.analyzer import AnalyzerOptions
    from facexp.server.access import TOKEN_VARIABLE, Access, Tls, read_token
    from facexp.server.batching import Batching
    from facexp.server.limits import Limits
    from facexp.server.serving import Settings

    cert, key, clients = given["tls_cert"], given["tls_key"], given["tls_clients"]
    if (cert is None) != (key is None) or (clients is not None and cert is None):
        raise click.UsageError("--tls-cert and --tls-key belong together, and --tls-clients needs both")
    # removed from the environment, which child processes would inherit
    token = os.environ.pop(TOKEN_VARIABLE, None) or None
    if given["token_file"] is not None:
        token = read_token(given["token_file"])
    analyzer = ("device", "threads", "emotions", "labels", "backend", "precision", "min_score", "min_face", "max_faces")
    return Settings(
        base=given["bundle"],
        host=given["host"],
        rest_port=given["rest_port"],
        grpc_port=given["grpc_port"],
        analyzer=AnalyzerOptions(**{name: given[name] for name in analyzer}),
        limits=Limits(
            request_bytes=given["max_request"] << 20,
            pixels=round(1e6 * given["max_pixels"]),
            queue=given["queue"],
            timeout_s=given["timeout"],
            drain_s=given["drain"],
        ),
        batching=Batching(given["batch_size"], given["batch_wait"]),
        access=Access(token, None if cert is None else Tls(cert, key, clients)),
    )


def _started(ports: Ports) -> None:
    stderr_message("Note", f"REST and the page on {ports.rest}/, gRPC on {ports.grpc}")
    if ports.public and ports.rest.startswith("http:"):
        stderr_message(
            "Warning", "the token and the pictures cross the network unencrypted: add --tls-cert and --tls-key"
        )
