"""WAL-G, and WAL-RUS, which takes the same commands and the same settings."""

import secrets
import shlex
from pathlib import Path

from contender import ZSTD_LEVEL, Site


class WalG:
    """WAL-G without its daemon; libsodium's encryption."""

    name = "wal-g"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._place = site.place
        processes = str(site.processes or 2)
        self._settings = {
            "WALG_COMPRESSION_METHOD": "zstd",
            "WALG_ZSTD_COMPRESSION_LEVEL": str(ZSTD_LEVEL),
            "WALG_LIBSODIUM_KEY": secrets.token_hex(32),
            "WALG_LIBSODIUM_KEY_TRANSFORM": "hex",
            "WALG_UPLOAD_CONCURRENCY": processes,
            "WALG_DOWNLOAD_CONCURRENCY": processes,
            "WALG_UPLOAD_DISK_CONCURRENCY": processes,
            "PGDATA": str(site.data_dir),
            "PGHOST": site.socket_dir,
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
        }
        if bucket := site.bucket:
            self._settings |= {
                "WALG_S3_PREFIX": f"s3://{bucket.name}/wal-g",
                "AWS_ENDPOINT": bucket.endpoint,
                "AWS_S3_FORCE_PATH_STYLE": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": bucket.access_key,
                "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
                "WALG_S3_CA_CERT_FILE": str(bucket.ca_file),
                "SSL_CERT_FILE": str(bucket.ca_file),
            }
        else:
            self._settings["WALG_FILE_PREFIX"] = str(self._place.directory("repository"))
        self._place.environment.update(self._settings)

    def prepare(self) -> str:
        return f"{self._command} wal-push %p"

    def backup(self) -> None:
        argv = [self.name, "backup-push", "--full", str(self._site.data_dir)]
        self._place.run(argv, timeout_s=7200)

    def stop(self) -> None:
        """Nothing stays."""

    def restore(self, target: Path) -> float:
        self._place.run([self.name, "backup-fetch", target, "LATEST"], timeout_s=7200)
        fetch = f"{self._command} wal-fetch %f %p".replace("'", "''")
        with (target / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"restore_command = '{fetch}'\narchive_mode = off\n")
        (target / "recovery.signal").touch()
        self._place.give_away(target / "recovery.signal")
        return 0.0

    def belongs(self, argv: list[str]) -> bool:
        return Path(argv[0]).name == self.name

    @property
    def _command(self) -> str:
        """For PostgreSQL, whose environment knows nothing of the store."""
        told = [f"{key}={shlex.quote(value)}" for key, value in self._settings.items()]
        return " ".join(["env", *told, self.name])


class WalRus(WalG):
    """WAL-RUS, whose program is called so."""

    name = "walross"
