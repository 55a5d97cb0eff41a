"""Fixture families, one file for each."""

pytest_plugins: list[str] = [
    "tests.fix_hypothesis",
    "tests.fix_age",
    "tests.fix_postgres",
    "tests.fix_archive",
    "tests.fix_cli",
    "tests.fix_hooks",
    "tests.fix_http",
    "tests.fix_s3",
    "tests.fix_ceph",
    "tests.fix_proxy",
    "tests.fix_storage",
    "tests.fix_backup",
    "tests.fix_archiving",
    "tests.fix_tail",
    "tests.fix_shipping",
    "tests.fix_restore",
    "tests.fix_retention",
    "tests.fix_browser",
    "tests.fix_certificate",
    "tests.fix_sinks",
]
