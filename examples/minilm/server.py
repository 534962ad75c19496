"""Serves all-MiniLM-L6-v2 on 127.0.0.1:$PORT in the shape of OpenAI's embeddings.

GET /health, GET /v1/models, POST /v1/embeddings. Whatever a client sends, it gets
JSON back, with the reason where something is refused.
"""

import base64
import json
import os
import signal
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from encoder import Encoder, model_folder

MODEL = "all-MiniLM-L6-v2"
BODY_BYTES_MAX = 1 << 20
INPUTS_MAX = 64
# A client that sends or reads nothing for so long is cut off.
IDLE_SECONDS_MAX = 30


class Refused(Exception):
    def __init__(self, status, message, parameter=None):
        super().__init__(message)
        self.status = status
        self.parameter = parameter


def texts_of(request):
    """The texts to encode, from a decoded request."""
    if not isinstance(request, dict):
        raise Refused(400, "the body must be a JSON object")
    model = request.get("model")
    if not isinstance(model, str):
        raise Refused(400, f"`model` must be a string; this server has {MODEL}", "model")
    if model != MODEL:
        raise Refused(404, f"no model `{model[:80]}` here; this server has {MODEL}", "model")
    if request.get("dimensions") not in (None, 384):
        raise Refused(400, "`dimensions` can only be 384", "dimensions")
    if request.get("encoding_format", "float") not in ("float", "base64"):
        raise Refused(400, "`encoding_format` must be float or base64", "encoding_format")
    if "input" not in request:
        raise Refused(400, "`input` is missing: a string or a list of strings", "input")
    given = request["input"]
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "`input` must be a string or a list of strings", "input")
    if not 1 <= len(texts) <= INPUTS_MAX:
        raise Refused(400, f"`input` has {len(texts)} texts, allowed are 1 to {INPUTS_MAX}", "input")
    if not all(texts):
        raise Refused(400, "`input` has an empty text", "input")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise Refused(400, "`input` has half of a surrogate pair, which is no text", "input") from None
    return texts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX

    def do_GET(self):
        self.answer(self.get)

    def do_POST(self):
        self.answer(self.post)

    def answer(self, make):
        try:
            value = make()
        except Refused as refused:
            # What is left of the body must not be taken for the next request.
            self.close_connection = True
            kind = "invalid_request_error"
            error = {"message": str(refused), "type": kind, "param": refused.parameter, "code": None}
            self.send(refused.status, {"error": error})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.close_connection = True
            error = {"message": "internal error", "type": "server_error", "param": None, "code": None}
            self.send(500, {"error": error})
        else:
            self.send(200, value)

    def get(self):
        if self.path == "/health":
            return {"status": "ok"}
        if self.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "example"}
            return {"object": "list", "data": [model]}
        raise Refused(404, "known are GET /health, GET /v1/models and POST /v1/embeddings")

    def post(self):
        if self.path != "/v1/embeddings":
            raise Refused(404, "known are GET /health, GET /v1/models and POST /v1/embeddings")
        try:
            request = json.loads(self.body())
        except (ValueError, RecursionError) as error:
            reason = str(error) or "nested too deeply"
            raise Refused(400, f"the body is not JSON: {reason}") from None
        texts = texts_of(request)
        with self.server.computing:
            vectors, token_count = self.server.encoder.encode(texts)
        as_base64 = request.get("encoding_format") == "base64"
        data = []
        for index, vector in enumerate(vectors):
            row = vector.astype("<f4")
            shown = base64.b64encode(row.tobytes()).decode() if as_base64 else row.tolist()
            data.append({"object": "embedding", "index": index, "embedding": shown})
        usage = {"prompt_tokens": token_count, "total_tokens": token_count}
        return {"object": "list", "model": MODEL, "data": data, "usage": usage}

    def body(self):
        if self.headers.get("Transfer-Encoding") is not None:
            raise Refused(411, "send the body with a Content-Length")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "send the body with a Content-Length")
        if len(length) > 12 or int(length) > BODY_BYTES_MAX:
            raise Refused(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "the body is shorter than its Content-Length")
        return body

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        """Nothing per request; what goes wrong is still written to stderr."""


def main():
    port = os.environ.get("PORT", "")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        sys.exit(f"PORT must be a port from 1 to 65535, not `{port}`")
    encoder = Encoder(model_folder())
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    server.encoder = encoder
    # One computation at a time: it uses the cores it has, and memory stays bounded.
    server.computing = threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"{MODEL} is served on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
