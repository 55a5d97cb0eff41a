"""pgBackRest, told to work as walkeeper does."""

import secrets
from pathlib import Path

from contender import PROCESSES, ZSTD_LEVEL, Bucket, CannotCompareError, Site


class PgBackRest:
    """pgBackRest with asynchronous archiving: its fast way."""

    name = "pgbackrest"

    def __init__(self, site: Site) -> None:
        self._place = place = site.place
        self._config = place.root / "pgbackrest.conf"
        bucket = site.bucket
        if bucket and not bucket.tls:
            raise CannotCompareError("it speaks to S3 only over TLS")
        repository = self._describe_bucket(bucket) if bucket else self._describe_directory()
        settings = {
            **repository,
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": secrets.token_urlsafe(36),
            "repo1-retention-full": "9",
            "compress-type": "zst",
            "compress-level": ZSTD_LEVEL,
            "process-max": site.processes or PROCESSES,
            "archive-async": "y",
            "start-fast": "y",
            "spool-path": place.directory("spool"),
            "lock-path": place.directory("lock"),
            "log-path": place.directory("pgbackrest-log"),
            "log-level-console": "warn",
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        cluster = ["[bench]", f"pg1-path={site.data_dir}", f"pg1-socket-path={site.socket_dir}"]
        place.write("pgbackrest.conf", "\n".join(["[global]", *lines, *cluster, ""]))

    def _describe_directory(self) -> dict[str, object]:
        return {"repo1-path": self._place.directory("repository")}

    def _describe_bucket(self, bucket: Bucket) -> dict[str, object]:
        return {
            "repo1-type": "s3",
            "repo1-path": "/pgbackrest",
            "repo1-s3-bucket": bucket.name,
            "repo1-s3-endpoint": "localhost",
            "repo1-s3-region": "us-east-1",
            "repo1-s3-key": bucket.access_key,
            "repo1-s3-key-secret": bucket.secret_key,
            "repo1-s3-uri-style": "path",
            "repo1-storage-host": "localhost",
            "repo1-storage-port": bucket.port,
            "repo1-storage-ca-file": bucket.ca_file,
        }

    def _run(self, *words: str) -> None:
        self._place.run(["pgbackrest", f"--config={self._config}", "--stanza=bench", *words])

    def prepare(self) -> str:
        self._run("stanza-create")
        return f"pgbackrest --config={self._config} --stanza=bench archive-push %p"

    def backup(self) -> None:
        self._run("--type=full", "backup")

    def stop(self) -> None:
        """Nothing stays: the asynchronous process ends with its queue."""

    def restore(self, target: Path) -> float:
        self._run(f"--pg1-path={target}", "--archive-mode=off", "restore")
        return 0.0

    def belongs(self, argv: list[str]) -> bool:
        return Path(argv[0]).name == "pgbackrest" and f"--config={self._config}" in argv
