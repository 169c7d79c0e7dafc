"""A DVC remote that several hosts share: whether this one may use it, and its errors in a line."""

import contextlib
import importlib
import uuid

from dvc.exceptions import DvcException
from dvc.fs import AuthError, ConfigError, RemoteMissingDepsError
from dvc.repo import Repo

from stages.common.core.cli import InputError, first_line

# The clients of S3 and SSH have errors of their own, which DVC passes on.
CLIENT_ERRORS = (("botocore.exceptions", "BotoCoreError"), ("asyncssh", "Error"))

# By the scheme of the remote's URL.
EXPECTED = {
    "s3": (
        "expected a bucket that this host may list and write, with AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY set, or the remote's profile"
    ),
    "ssh": (
        "expected a server that lets this host log in and write there, with the remote's user and "
        "keyfile"
    ),
}
EXPECTED_ELSE = "expected a place that this host may read and write"
PAGE = "CONTRIBUTING.md, The remote"  # has the commands


def remote_errors() -> tuple[type[Exception], ...]:
    """All that the use of a remote may raise: of DVC, the system, and the clients installed."""
    found: list[type[Exception]] = [
        DvcException, AuthError, ConfigError, RemoteMissingDepsError, ImportError, OSError,
        ValueError,
    ]  # fmt: skip
    for module, name in CLIENT_ERRORS:
        with contextlib.suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def require_remote(repository: Repo) -> None:
    """List the default remote, write a small file into it and remove that again.

    Without this DVC would find out after the training, when it pushes. Raises ``InputError`` that
    names the remote, the reason and what is expected.
    """
    try:
        remote = repository.cloud.get_remote()
        list(remote.odb.oids_exist([digit * 32 for digit in "01"]))  # as a push begins
        remote.fs.makedirs(remote.path)
        trial = remote.fs.join(remote.path, f"trial-{uuid.uuid4().hex}")
        with remote.fs.open(trial, "wb") as file:
            file.write(b"written to find out whether this host may\n")
        with contextlib.suppress(PermissionError):  # DVC's push deletes nothing
            remote.fs.remove(trial)
    except remote_errors() as error:
        raise InputError(unusable(repository, error)) from error


def unusable(repository: Repo, error: Exception) -> str:
    """The line for a default remote that raised ``error``."""
    name = repository.config["core"].get("remote")
    if name is None:
        return f"there is no default DVC remote; choose one with 'dvc remote default NAME' ({PAGE})"
    if name not in repository.config["remote"]:
        return (
            f"this host knows no DVC remote '{name}'; add it with 'dvc remote add --global {name} "
            f"URL' ({PAGE})"
        )
    url = repository.config["remote"][name]["url"]
    scheme = url.split("://")[0]
    failed = f"the DVC remote '{name}' ({url}) cannot be used: {first_line(error)}"
    if isinstance(error, ImportError | RemoteMissingDepsError):
        packages = "-r requirements-cluster.txt" if scheme in EXPECTED else f"dvc-{scheme}"
        return f"{failed}; run 'python -m pip install {packages}'"
    return f"{failed}; {EXPECTED.get(scheme, EXPECTED_ELSE)} ({PAGE})"
