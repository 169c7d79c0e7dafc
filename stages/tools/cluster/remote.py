"""Find out whether this host may read and write the default DVC remote, before hours of training.

Reads   the configuration of the DVC repository it runs in, the list of the remote's files
Writes  a small file into the remote, and removes it
Params  none
Raises  InputError that names the remote, the reason and what is expected
"""

from pathlib import Path

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo

from stages.common.core.cli import InputError, run
from stages.common.revisions.remote import require_remote


def main() -> None:
    try:
        with Repo() as repository:
            require_remote(repository)
    except NotDvcRepoError:
        raise InputError(f"{Path().resolve()} is no DVC repository; run this in a clone") from None


if __name__ == "__main__":
    run(main)
