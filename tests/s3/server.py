"""The S3 server of the tests and of the demo: moto, with the strictness of a real one in front.

Started with a pipe as standard input, it makes the buckets that its arguments name, says its port, an access key and
its secret on standard output, and ends when the pipe closes: with whoever started it, however that ended. Listens on
the loopback interface alone, holds everything in memory.

moto by itself believes every signature and every checksum, and lets two requests run into each other. Here
- the signature has to be right, and young. An access key that begins with WALKEEP has a secret that follows from
  it (`secret`), one that begins with WALKEEPTEMP needs its session token besides; no others exist;
- a body has to be all there and to agree with its hash and its checksums;
- one request is carried out after the other, each with its whole body, so that a condition is atomic;
- a multipart upload was begun after the server, not in 2010;
- a bucket may stand in the name of the host: BUCKET.localhost;
- connections stay open.

A request with the header `x-walkeep-deaf` (unsigned, so that a proxy can add it) is carried out as by a store that
does not know conditional requests.
"""

import base64
import datetime
import hashlib
import hmac
import io
import json
import os
import sys
import threading
import time
import urllib.parse
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app

SIGNATURE = "AWS4-HMAC-SHA256"
ACCESS_KEY = "WALKEEPTEST"
QUARTER = 900  # seconds by which the clocks may differ
BEGUN = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()


def secret(access_key):
    return hashlib.sha256(b"secret of " + access_key.encode()).hexdigest()[:40]


def token(access_key):
    return hashlib.sha256(b"token of " + access_key.encode()).hexdigest()


class Refused(Exception):
    """An error as S3 answers it."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code

    def body(self):
        return f'<?xml version="1.0"?><Error><Code>{self.code}</Code><Message>{self}</Message></Error>'.encode()


def check_signature(method, target, headers):
    """Signature Version 4, in the header of that name."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme != SIGNATURE:
        raise Refused(403, "AccessDenied", "Access Denied")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    access_key, *scope = parts["Credential"].split("/")
    if not access_key.startswith("WALKEEP"):
        raise Refused(403, "InvalidAccessKeyId", "The access key does not exist in our records.")
    if access_key.startswith("WALKEEPTEMP") and headers.get("x-amz-security-token") != token(access_key):
        raise Refused(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
    date = headers.get("x-amz-date", "")
    at = datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    if abs(at - time.time()) > QUARTER:
        raise Refused(403, "RequestTimeTooSkewed", "The difference between the clocks is too large.")
    path, _, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    names = parts["SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(sorted(f"{name}={value}" for name, _, value in pairs)),
            "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names),
            ";".join(names),
            headers.get("x-amz-content-sha256", ""),
        ]
    )
    text = "\n".join([SIGNATURE, date, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret(access_key).encode()
    for step in scope:
        key = hmac.digest(key, step.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), parts["Signature"]):
        raise Refused(403, "SignatureDoesNotMatch", "The signature does not match the request.")


CHECKSUMS = {
    "content-md5": lambda body: hashlib.md5(body).digest(),
    "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
    "x-amz-checksum-sha1": lambda body: hashlib.sha1(body).digest(),
    "x-amz-checksum-crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
}


def check_body(headers, body):
    """The hash that was signed, and whatever checksums stand in front of the body or behind it."""
    signed = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if not signed.startswith(("UNSIGNED-", "STREAMING-")) and signed != hashlib.sha256(body).hexdigest():
        raise Refused(400, "XAmzContentSHA256Mismatch", "The provided hash is not the one of the body.")
    trailers = {}
    if "aws-chunked" in headers.get("content-encoding", ""):
        body, trailers = unchunked(body)
    if int(headers.get("x-amz-decoded-content-length", len(body))) != len(body):
        raise Refused(400, "IncompleteBody", "There are not as many bytes as were promised.")
    given = {**headers, **trailers}
    for name, checksum in CHECKSUMS.items():
        if name in given and base64.b64decode(given[name]) != checksum(body):
            raise Refused(400, "BadDigest", f"The {name} is not the one of the body.")


def unchunked(body):
    """Takes apart what the SDKs send when a checksum follows the content."""
    content, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        length, at = int(body[at:end].split(b";")[0], 16), end + 2
        if length == 0:
            break
        content.append(body[at : at + length])
        at += length + 2
    lines = [line.partition(":") for line in body[at:].decode().split("\r\n")]
    return b"".join(content), {name.lower(): value.strip() for name, _, value in lines if name}


class Connection(BaseHTTPRequestHandler):
    """Reads requests, refuses wrong ones, has moto carry out the others."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def answer(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            # Cut off in the middle: nobody waits for an answer, and nothing is stored.
            self.close_connection = True
            return
        try:
            if self.path == "/fill":
                self.reply(200, [], fill(json.loads(body)))
                return
            check_signature(self.command, self.path, headers)
            check_body(headers, body)
        except Refused as refused:
            self.reply(refused.status, [("Content-Type", "application/xml")], refused.body())
            return
        with self.one_at_a_time:
            status, headers, body = self.carried_out(headers, body)
        self.reply(status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def carried_out(self, headers, body):
        path, _, query = self.path.partition("?")
        bucket, in_host, _ = headers.get("host", "").partition(".localhost")
        if in_host:
            path = f"/{bucket}{path}"
            headers["host"] = "127.0.0.1"
        if "x-walkeep-deaf" in headers:
            headers.pop("if-none-match", None)
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": urllib.parse.unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "REQUEST_URI": f"{path}?{query}",
            "RAW_URI": f"{path}?{query}",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": headers.get("content-type", ""),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        environ.update({"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()})
        started = []
        content = b"".join(self.moto(environ, lambda status, headers, *_: started.extend([status, headers])))
        # moto gives every upload the same time.
        content = content.replace(b"<Initiated>2010-11-10T20:48:33.000Z<", b"<Initiated>" + BEGUN + b"<")
        names = [(name, value) for name, value in started[1] if name.lower() != "connection"]
        return int(started[0].split()[0]), names, content

    def reply(self, status, headers, body):
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names and status != 204:
            self.send_header("Content-Length", str(len(body)))
        if "date" not in names:
            self.send_header("Date", self.date_time_string())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def handle_expect_100(self):
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *_):
        pass


def fill(order):
    """Many small objects at once: a test that needs thousands of keys shall not wait for thousands of requests."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in order["keys"]:
        backend.put_object(order["bucket"], key, order["content"].encode())
    return b""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    server = Server(("127.0.0.1", 0), Connection)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for bucket in sys.argv[1:]:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
    print(server.server_port, ACCESS_KEY, secret(ACCESS_KEY), flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


main()
