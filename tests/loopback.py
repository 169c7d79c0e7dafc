"""Servers on loopback for DVC remotes: one that speaks S3, one that speaks SSH, and a link to cut.

They belong to the test that starts them: temporary folders, free ports, keys of their own.
"""

import contextlib
import getpass
import os
import select
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
BUCKET = "bucket"
REGION = "us-east-1"
POLICY = """{"Version": "2012-10-17", "Statement":
[{"Effect": "Allow", "Action": "s3:%s", "Resource": "*"}]}"""
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
PRIVILEGE_FOLDER = Path("/run/sshd")  # root's sshd wants it; Debian's service makes it
SSHD_CONFIG = """\
ListenAddress {host}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""


class Link:
    """A port that leads to another one until it is cut; ``mend`` opens the same port again.

    It is cut, or falls silent, when ``bytes_left`` have passed.
    """

    def __init__(self, target: int):
        self.target = target
        self.port = free_port()
        self.mend()

    def mend(self) -> None:
        self.bytes_left: float = float("inf")
        self.falls_silent = False
        self.closed = threading.Event()
        link = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                link.carry(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server((HOST, self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def carry(self, near: socket.socket) -> None:
        closed = self.closed
        with socket.create_connection((HOST, self.target)) as far, contextlib.suppress(OSError):
            while not closed.is_set():
                for end in select.select([near, far], [], [], 0.05)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    self.bytes_left -= len(data)
                    if self.bytes_left < 0:
                        self.closed.wait() if self.falls_silent else self.cut()
                        return
                    (far if end is near else near).sendall(data)

    def cut(self) -> None:
        """As if the server were gone: connections end, and new ones are refused."""
        if not self.closed.is_set():
            self.closed.set()
            self.server.shutdown()
            self.server.server_close()


@dataclass(frozen=True)
class S3:
    """A server with one bucket; it checks signatures, and what a user may do."""

    port: int
    writer: dict[str, str]  # environment of one who may read and write
    reader: dict[str, str]  # of one who may only read


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    from moto import settings
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(HOST, 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    client_of("s3", port).create_bucket(Bucket=BUCKET)
    writer, reader = (user(port, name, may) for name, may in (("w", "*"), ("r", "[GL]*")))
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0  # from now on it checks
    yield S3(port, writer, reader)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
    server.stop()


def client_of(service: str, port: int):
    import boto3

    return boto3.client(
        service, endpoint_url=f"http://{HOST}:{port}", region_name=REGION,
        aws_access_key_id="any", aws_secret_access_key="any",
    )  # fmt: skip


def user(port: int, name: str, may: str) -> dict[str, str]:
    iam = client_of("iam", port)
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=POLICY % may)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


@dataclass(frozen=True)
class SSH:
    """A server that lets the user of the tests in, with one key."""

    port: int
    user: str
    key: Path
    other_key: Path  # of nobody


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[SSH]:
    """``folder``: for its keys and its configuration."""
    for name in ("host_key", "user_key", "other_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    port = free_port()
    (folder / "config").write_text(SSHD_CONFIG.format(host=HOST, port=port, folder=folder))
    makes_folder = os.getuid() == 0 and not PRIVILEGE_FOLDER.exists()
    if makes_folder:
        PRIVILEGE_FOLDER.mkdir(mode=0o755)
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    wait_for_port(port)
    yield SSH(port, getpass.getuser(), folder / "user_key", folder / "other_key")
    server.terminate()
    server.wait()
    if makes_folder:
        PRIVILEGE_FOLDER.rmdir()


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


def wait_for_port(port: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((HOST, port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < end, f"nothing listens at port {port}"
            time.sleep(0.05)
