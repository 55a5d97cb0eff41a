"""The programs that the bench knows, and which of them are here."""

import re
import shutil
import subprocess

from contender import Contender
from contender_barman import BarmanCloud
from contender_pgbackrest import PgBackRest
from contender_walg import WalG, WalRus
from contender_walkeeper import Walkeeper

CONTENDERS: dict[str, type[Contender]] = {
    "walkeeper": Walkeeper,
    "pgbackrest": PgBackRest,
    "barman-cloud": BarmanCloud,
    "wal-g": WalG,
    "walross": WalRus,
}
# The file that shows that a program is installed, and how it says its version.
PROGRAMS = {
    "walkeeper": ("walkeeper", "--version"),
    "pgbackrest": ("pgbackrest", "version"),
    "barman-cloud": ("barman-cloud-wal-archive", "--version"),
    "wal-g": ("wal-g", "--version"),
    "walross": ("walross", "--version"),
}
WHERE = {
    "pgbackrest": "apt-get install pgbackrest",
    "barman-cloud": "apt-get install barman-cli-cloud python3-boto3",
    "wal-g": "its binary is not on PATH",
    "walross": "the binary of WAL-RUS is not on PATH",
}


def find_programs() -> dict[str, str]:
    """The versions of what is installed."""
    found = {}
    for name, argv in PROGRAMS.items():
        if shutil.which(argv[0]):
            said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            version = re.search(r"\d+\.\d+[.\w]*", said)
            found[name] = version.group() if version else "of unknown version"
    return found
