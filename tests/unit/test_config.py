"""The configuration: what is taken, what is refused, and that all of it is said at once."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from walkeeper import log
from walkeeper.config import Config, RepositoryConfig
from walkeeper.config_load import find_config_path, load_config
from walkeeper.config_values import Dsn
from walkeeper.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
SMALL = """
[cluster]
dsn = "postgresql://postgres@/postgres?host=/var/run/postgresql"
[[repository]]
url = "s3://backups/letta"
[encryption]
recipients = ["age1example"]
writer_key_file = "/etc/walkeeper/key.txt.writer"
"""


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "walkeeper.toml"
    path.write_text(text)
    return load_config(path, environ)


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    assert caught.value.exit_code == 40
    return caught.value.message


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    assert config.repository == RepositoryConfig(url="s3://backups/letta")
    assert config.agent.socket == Path("/run/walkeeper/agent.sock")
    assert (config.archive.level, config.archive.uploads, config.archive.memory) == (1, 4, 48 << 20)
    assert config.require_writer_key_file() == Path("/etc/walkeeper/key.txt.writer")
    assert config.require_dsn().reveal().startswith("postgresql://postgres@/")


def test_a_host_that_only_restores_needs_no_dsn_and_no_writer_key(tmp_path: Path) -> None:
    config = load(tmp_path, '[[repository]]\nurl = "file:///mnt/b"\n')
    with pytest.raises(ConfigError, match="dsn is missing"):
        config.require_dsn()
    with pytest.raises(ConfigError, match="writer_key_file are missing"):
        config.require_writer_key_file()


def test_durations_and_sizes_are_read_with_their_units(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SMALL.replace('letta"', 'letta"\nread_timeout = "1.5min"\nconnect_timeout = "250ms"')
        + '[archive]\nmemory = "1GiB"\n',
    )
    assert config.repository.read_timeout == 90
    assert config.repository.connect_timeout == 0.25
    assert config.archive.memory == 1 << 30


def test_weeks_and_years_are_read_so_that_nothing_goes_too_early(tmp_path: Path) -> None:
    text = SMALL + '[retention]\nwindow = "2w"\nmonthly = "7y"\n'
    config = load(tmp_path, text)
    assert config.retention.window == 14 * 86_400
    assert config.retention.monthly == 7 * 366 * 86_400


@pytest.mark.parametrize(
    ("section", "line", "said"),
    [
        ("[cluster]", 'dns = "x"', "[cluster] dns is no option; did you mean dsn?"),
        ("[[repository]]", 'endpointurl = "x"', "did you mean endpoint_url?"),
        ("[encryption]", "zzz = 1", "[encryption] zzz is no option"),
        ("[agent]", 'htttp = ""', "[agent] htttp is no option; did you mean http?"),
        ("[agent]", 'http = "0.0.0.0:9188"', "[agent] http 0.0.0.0:9188 is open to others"),
        ("[agent]", 'http = "[::]:9188"', "[agent] http [::]:9188 is open to others"),
        ("[agent]", 'http = "192.0.2.1:9188"', "http_token_file, or http_trusted_proxy"),
        ("[agent]", 'http = "db1:9188"', "[agent] http: 'db1:9188' is no address"),
        ("[agent]", 'http = ":9188"', "is no address such as"),
        ("[agent]", 'http = "::1:9188"', "is no address such as"),
        ("[agent]", 'http = "127.0.0.1"', "is no address such as"),
        ("[agent]", 'http = "127.0.0.1:65536"', "is no address such as"),
        ("[agent]", 'look_every = "1s"', "[agent] look_every is not between"),
        ("[archve]", "level = 1", "[archve] is no section; did you mean archive?"),
        ("[archive]", "level = 20", "[archive] level: Expected `int` <= 19"),
        ("[archive]", "level = 0", "[archive] level"),
        ("[archive]", 'uploads = "4"', "[archive] uploads: Expected `int`, got `str`"),
        ("[archive]", 'memory = "64MB"', 'is not a size such as "64MiB"'),
        ("[archive]", "memory = 64", "expected text in quotes, got int"),
        ("[archive]", 'memory = "1MiB"', '[archive] memory is under "16MiB"'),
        ("[backup]", 'part_size = "6GiB"', "[backup] part_size is not between"),
        ("[backup]", "readers = 0", "[backup] readers"),
        ("[fetch]", "prefetch = -1", "[fetch] prefetch"),
        ("[verify]", 'sample = "0%"', 'is not a share such as "5%"'),
        ("[verify]", 'sample = "101%"', "[verify] sample"),
        ("[schedule]", 'backup = "daily"', "[schedule] backup: 'daily' has not the five fields"),
        ("[schedule]", 'verify = "61 * * * *"', "[schedule] verify: "),
        ("[schedule]", 'timezone = "Mars"', "[schedule] timezone: 'Mars' is no time zone"),
        ("[schedule]", 'jitter = "2d"', '[schedule] jitter is over "1d"'),
        ("[drill]", 'checks = [{ sql = "SELECT 1" }]', "number 1 has none of expect, min and max"),
        ("[drill]", 'checks = [{ sql = " ", min = 1 }]', "number 1 has no sql"),
        ("[drill]", 'checks = [{ sql = "x", min = nan }]', "a bound that is no number"),
        ("[drill]", 'checks = [{ sql = "x", expected = "1" }]', "[drill] checks: "),
        ("[drill]", 'target = "oldest"', "[drill] target: Invalid enum value 'oldest'"),
        ("[drill]", 'check_timeout = "0s"', "[drill] check_timeout must be longer"),
        ("[drill]", 'memory = "1KiB"', '[drill] memory is under "1MiB"'),
        ("[drill]", 'preload = ["a,b"]', "each library is an entry of its own"),
        ("[retention]", 'daily = "90d"', "daily means nothing without window"),
        ("[retention]", 'window = "14"', "is not a duration"),
        ("[retention]", 'window = "1d"\ngrace = "2h"', '[retention] grace is over "1h"'),
        ("[retention]", "minimum_backups = 0", "[retention] minimum_backups"),
        ("[schedule]", 'expire = "0 6 * * *"', "does nothing without [retention] window"),
        ("[log]", 'level = "loud"', "[log] level: Invalid enum value 'loud'"),
        ("[agent]", 'socket = "run/agent.sock"', "[agent] socket: expected an absolute path"),
        ("[agent]", f'socket = "/{"x" * 107}"', "too long for a socket"),
        ("[cluster]", 'archive = "No Spaces"', "[cluster] archive: 1 to 63 of"),
        ("[cluster]", 'accept_gap = "yes"', "[cluster] accept_gap is no name of a WAL segment"),
        ("[cluster]", 'dsn_file = "/nowhere"', "[cluster] dsn_file: cannot read /nowhere"),
        ("[[repository]]", 'connect_timeout = "5"', "is not a duration"),
        ("[[repository]]", 'connect_timeout = "0s"', "must be longer than nothing"),
        ("[[repository]]", 'deadline = "0s"', "must be longer than nothing"),
        ("[[repository]]", 'endpoint_url = "s3.local"', "endpoint_url begins with https://"),
        ("[[repository]]", 'access_key_id_file = "/a"', "go together"),
        ("[encryption]", 'identity_file = "/a"\nidentity_command = ["pass"]', "has both"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    section: str, line: str, said: str, tmp_path: Path
) -> None:
    text = SMALL.replace(section, f"{section}\n{line}", 1)
    if section not in SMALL:
        text += f"{section}\n{line}\n"
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "url", ["backups", "s3://", "ftp://x/y", "file://mnt/x", "file:mnt", "gs://bucket", ""]
)
def test_a_url_that_leads_nowhere_is_refused(url: str, tmp_path: Path) -> None:
    assert "[[repository]] url" in refusal(tmp_path, f'[[repository]]\nurl = "{url}"\n')


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        "[cluster]\ndns = 1\n[archive]\nlevel = 99\nmemory = 1\n[[repository]]\nregion = 1\n",
    )
    for part in ("dns", "level", "memory", "region", "[[repository]] url is missing"):
        assert part in said
    said = refusal(
        tmp_path,
        '[archive]\nmemory = "1B"\n[backup]\npart_size = "1B"\n[[repository]]\nurl = "x"\n',
    )
    assert said.count("\n") == 3


def test_a_second_repository_is_refused_clearly(tmp_path: Path) -> None:
    said = refusal(tmp_path, SMALL + '[[repository]]\nurl = "file:///mnt/b"\n')
    assert "only one repository is supported so far" in said
    assert "two brackets" in refusal(tmp_path, '[repository]\nurl = "file:///mnt/b"\n')
    assert "[[repository]] url is missing" in refusal(tmp_path, "")
    assert "[[repository]]" in refusal(tmp_path, "repository = []\n")


def test_what_is_written_must_be_signed(tmp_path: Path) -> None:
    said = refusal(tmp_path, SMALL.replace("writer_key_file", "#"))
    assert "recipients and writer_key_file go together" in said


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SMALL,
        WALKEEPER_REPOSITORY_URL="file:///mnt/b",
        WALKEEPER_ENCRYPTION_RECIPIENTS="age1a, age1b",
        WALKEEPER_ENCRYPTION_IDENTITY_COMMAND="pass show 'my key'",
        WALKEEPER_ARCHIVE_UPLOADS="7",
        WALKEEPER_ARCHIVE_MEMORY="32MiB",
        WALKEEPER_SOCKET="/run/a.sock",
        WALKEEPER_CONFIG="/ignored/here",
        WALKEEPER_TEST_REQUIRE="s3",
    )
    assert config.repository.url == "file:///mnt/b"
    assert config.encryption.recipients == ("age1a", "age1b")
    assert config.encryption.identity_command == ("pass", "show", "my key")
    assert config.archive.uploads == 7
    assert config.archive.memory == 32 << 20
    assert config.agent.socket == Path("/run/a.sock")
    config = load(tmp_path, SMALL, WALKEEPER_SOCKET="/a", WALKEEPER_AGENT_SOCKET="/b")
    assert config.agent.socket == Path("/b")


def test_the_environment_is_checked_as_the_file_is(tmp_path: Path) -> None:
    said = refusal(tmp_path, SMALL, WALKEEPER_ARCHIVE_UPLOADS="0", WALKEEPER_ARCHIVE_LEVLE="1")
    assert "[archive] uploads" in said
    assert "$WALKEEPER_ARCHIVE_LEVLE is no option; did you mean WALKEEPER_ARCHIVE_LEVEL?" in said
    said = refusal(tmp_path, SMALL, WALKEEPER_ENCRYPTION_IDENTITY_COMMAND="pass 'open")
    assert "[encryption] identity_command" in said


def test_the_dsn_can_come_from_a_file_and_only_once(tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://u:planted-secret@h/db\n")
    text = re.sub("dsn = .*", f'dsn_file = "{secret}"', SMALL)
    assert load(tmp_path, text).require_dsn() == Dsn("postgresql://u:planted-secret@h/db")
    both = SMALL.replace("[cluster]", f'[cluster]\ndsn_file = "{secret}"')
    assert "both dsn and dsn_file" in refusal(tmp_path, both)
    assert load(tmp_path, text, WALKEEPER_CLUSTER_DSN="host=x").require_dsn() == Dsn("host=x")
    config = load(tmp_path, SMALL, WALKEEPER_CLUSTER_DSN_FILE=str(secret))
    assert "planted" in config.require_dsn().reveal()


def test_neither_the_configuration_nor_its_errors_show_a_password(tmp_path: Path) -> None:
    text = re.sub("dsn = .*", 'dsn = "postgresql://u:planted-secret@h/db"', SMALL)
    assert "planted" not in repr(load(tmp_path, text))
    said = refusal(tmp_path, text + "[archive]\nlevel = 99\n")
    assert "planted" not in said
    assert "planted" not in refusal(tmp_path, text.replace("dsn =", "dns ="))
    assert log.redact(None, "info", {"dsn": "x planted-secret y"})["dsn"] == "x [redacted] y"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p%40ss@h:5432/db?sslmode=require", "postgresql://u:***@h:5432/db?sslmode=require"),
        ("postgresql://u@h/db?password=hunter2&x=y", "postgresql://u@h/db?password=***&x=y"),
        ("postgresql://u:one@h/db?sslpassword=two", "postgresql://u:***@h/db?sslpassword=***"),
        ("postgresql://u:a:b@c/d@h1:5432,h2/db", "postgresql://u:***@h1:5432,h2/db"),
        ("postgresql://postgres@/postgres?host=/run", "postgresql://postgres@/postgres?host=/run"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("host=h password = 'it''s x' user=u", "host=h password = ***'s x' user=u"),
        (r"host=h password='a\'b c' user=u", "host=h password=*** user=u"),
        ("password=secret host=h", "password=*** host=h"),
        ("host=h", "host=h"),
    ],
)  # fmt: skip
def test_a_dsn_is_shown_without_its_passwords(dsn: str, shown: str) -> None:
    assert Dsn(dsn).redacted() == shown
    assert dsn not in f"{Dsn(dsn)} {Dsn(dsn)!r}"


def test_a_password_is_known_as_written_and_as_read() -> None:
    assert Dsn("postgresql://u:p%40ss@h/db").passwords() == ["p%40ss", "p@ss"]
    assert r"a'b c" in Dsn(r"password='a\'b c'").passwords()
    assert Dsn("host=h").passwords() == []


def test_a_missing_or_unreadable_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration") as caught:
        load_config(tmp_path / "missing.toml", {})
    assert "conf/minimal.toml" in (caught.value.hint or "")
    assert "is not TOML" in refusal(tmp_path, "[cluster")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path, {})


def test_the_option_comes_before_the_environment_and_that_before_the_default() -> None:
    environ = {"WALKEEPER_CONFIG": "/b"}
    assert find_config_path(Path("/a"), environ) == Path("/a")
    assert find_config_path(None, environ) == Path("/b")
    assert find_config_path(None, {}) == Path("/etc/walkeeper/walkeeper.toml")


def test_the_smallest_example_loads() -> None:
    config = load_config(CONF / "minimal.toml", {})
    assert config.require_dsn()
    assert config.require_writer_key_file()


def test_the_full_example_loads_and_leaves_out_no_option(tmp_path: Path) -> None:
    """Options without a useful default are there too, as comments that load when uncommented."""
    text = (CONF / "walkeeper.toml").read_text()
    config = load(tmp_path, text)
    written = re.findall(r"^#?([a-z_]+) = ", text, re.MULTILINE)
    options = [
        field.name
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(
            RepositoryConfig if section.name == "repositories" else section.type
        )
    ]
    assert sorted(written) == sorted([*options, "dsn_file", "heartbeat_url_file"])
    defaults = Config(repositories=(config.repository,))
    for section in ("agent", "archive", "backup", "fetch", "log", "verify"):
        assert getattr(config, section) == getattr(defaults, section), section
        written_out = msgspec.to_builtins(getattr(defaults, section), enc_hook=str)
        useful = {name for name, value in written_out.items() if value is not None}
        assert set(tomllib.loads(text)[section]) == useful


@pytest.mark.parametrize("line", re.findall(r"^#([a-z_]+ = .*)", (CONF / "walkeeper.toml").read_text(), re.MULTILINE))  # fmt: skip # noqa: E501
def test_each_commented_option_is_written_as_it_must_be(line: str, tmp_path: Path) -> None:
    text = (CONF / "walkeeper.toml").read_text()
    uncommented = text.replace(f"#{line}", line)
    try:
        load(tmp_path, uncommented)
    except ConfigError as error:
        assert any(  # noqa: PT017
            part in error.message
            for part in (
                "go together",
                "has both",
                "_file: cannot read",
                "expire does nothing without",
            )
        )


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:9188", "127.0.0.1", 9188),
        ("127.8.8.8:1", "127.8.8.8", 1),
        ("[::1]:9188", "::1", 9188),
        ("localhost:0", "localhost", 0),
    ],
)
def test_http_is_open_to_the_own_host_without_further_ado(
    tmp_path: Path, written: str, host: str, port: int
) -> None:
    listen = load(tmp_path, SMALL, WALKEEPER_AGENT_HTTP=written).agent.http
    assert (listen.host, listen.port, str(listen)) == (host, port, written)
    assert listen.is_on
    assert listen.is_loopback


def test_http_is_off_when_it_says_nothing(tmp_path: Path) -> None:
    assert not load(tmp_path, SMALL + '[agent]\nhttp = ""\n').agent.http.is_on


@pytest.mark.parametrize("key", ['http_token_file = "/etc/token"', "http_trusted_proxy = true"])
def test_http_is_open_to_others_where_somebody_asks_who_they_are(tmp_path: Path, key: str) -> None:
    agent = load(tmp_path, SMALL + f'[agent]\nhttp = "0.0.0.0:9188"\n{key}\n').agent
    assert not agent.http.is_loopback


def test_a_switch_is_read_from_the_environment(tmp_path: Path) -> None:
    environ = {"WALKEEPER_AGENT_HTTP": "[::]:1", "WALKEEPER_AGENT_HTTP_TRUSTED_PROXY": "true"}
    assert load(tmp_path, SMALL, **environ).agent.http_trusted_proxy
    said = refusal(tmp_path, SMALL, WALKEEPER_AGENT_HTTP_TRUSTED_PROXY="yes")
    assert "[agent] http_trusted_proxy" in said
