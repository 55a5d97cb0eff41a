"""barman-cloud: a process for each segment, compressed but not encrypted by itself."""

import json
import shlex
from pathlib import Path

from contender import CannotCompareError, Site

SERVER = "bench"


class BarmanCloud:
    """barman-cloud of Debian 12: it has gzip, not zstd."""

    name = "barman-cloud"

    def __init__(self, site: Site) -> None:
        if site.bucket is None:
            raise CannotCompareError("it stores in object stores alone")
        self._site = site
        self._place = site.place
        bucket = site.bucket
        self._where = [f"s3://{bucket.name}/barman", SERVER]
        self._endpoint = ["--endpoint-url", bucket.endpoint]
        self._secrets = {
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
            "AWS_CA_BUNDLE": str(bucket.ca_file),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._place.environment.update(self._secrets)

    def prepare(self) -> str:
        return f"{self._command('barman-cloud-wal-archive', '--gzip')} %p"

    def backup(self) -> None:
        jobs = f"--jobs={self._site.processes or 2}"
        options = ["--gzip", "--immediate-checkpoint", jobs, "--host", self._site.socket_dir]
        argv = ["barman-cloud-backup", *self._endpoint, *options, "--user", "postgres"]
        self._place.run([*argv, *self._where], timeout_s=7200)

    def stop(self) -> None:
        """Nothing stays."""

    def restore(self, target: Path) -> float:
        listing = ["barman-cloud-backup-list", *self._endpoint, "--format", "json", *self._where]
        said = self._place.run(listing)
        found = json.loads(said[said.index("{") :])["backups_list"]
        newest = max(one["backup_id"] for one in found)
        argv = ["barman-cloud-restore", *self._endpoint, *self._where, newest, target]
        self._place.run(argv, timeout_s=7200)
        fetch = f"{self._command('barman-cloud-wal-restore')} %f %p".replace("'", "''")
        with (target / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"restore_command = '{fetch}'\narchive_mode = off\n")
        (target / "recovery.signal").touch()
        self._place.give_away(target / "recovery.signal")
        return 0.0

    def belongs(self, argv: list[str]) -> bool:
        return any(Path(word).name.startswith("barman-cloud-") for word in argv[:2])

    def _command(self, program: str, *options: str) -> str:
        """For PostgreSQL, whose environment knows nothing of the store."""
        told = [f"{key}={shlex.quote(value)}" for key, value in self._secrets.items()]
        return " ".join(["env", *told, program, *self._endpoint, *options, *self._where])
