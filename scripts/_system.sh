# Sourced by install: what has to come from the system, and what to do where it has less.

apt_install() (
    export DEBIAN_FRONTEND=noninteractive
    said=$(mktemp) && trap 'rm -f "$said"' EXIT
    set -- apt-get install -qq -y --no-install-recommends "$@"
    "$@" </dev/null >"$said" 2>&1 && exit
    apt-get update -qq >&2 || true # one broken source must not stop the others
    "$@" </dev/null >"$said" 2>&1 || { cat "$said" >&2 && exit 1; }
)

# Fetch Debian packages and unpack them under a directory, which needs no root.
apt_unpack() ( # DIRECTORY PACKAGE...
    into=$1 && shift
    work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT && cd "$work"
    if ! apt-get download -qq "$@" 2>/dev/null; then
        mkdir -p state/lists/partial cache/archives/partial # an image has no package lists: make our own
        echo "Dir::State \"$work/state\"; Dir::State::status \"/var/lib/dpkg/status\";" >apt.conf
        echo "Dir::Cache \"$work/cache\";" >>apt.conf
        export APT_CONFIG="$work/apt.conf"
        apt-get update -qq >&2 && apt-get download -qq "$@" >&2 || exit 1
    fi
    for package in *.deb; do dpkg-deb -x "$package" "$into" || exit 1; done
)

# The first Python that is new enough and that RUN_USER can run (one under /root/.pyenv is not).
find_python() (
    PATH=${PATH#"$ENV/bin:"}
    for python in /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3; do
        python=$(command -v "$python") || continue
        as_run_user "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        echo "$python" && exit
    done
    fail "no Python 3.11 or newer that ${RUN_USER:-this user} can run: install python3"
)

make_environment() {
    as_run_user "$ENV/bin/python" -c '' 2>/dev/null && python -m pip --version >/dev/null 2>&1 && return
    python=$(find_python)
    echo "making $ENV with $python" >&2
    if ! "$python" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt_install python3-venv || true
    fi
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv --clear "$ENV"
        return
    fi
    # Debian keeps pip's wheel in a package of its own; without root it is unpacked, not installed.
    "$python" -m venv --clear --without-pip "$ENV" && command -v apt-get >/dev/null &&
        apt_unpack "$ENV/debian" python3-pip-whl &&
        "$ENV/bin/python" "$(echo "$ENV"/debian/usr/share/python-wheels/pip-*.whl)/pip" install -q \
            --no-index "$(echo "$ENV"/debian/usr/share/python-wheels/pip-*.whl)" ||
        fail "$python has no ensurepip: install the package python3-venv"
}

has_postgres() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; }

# PostgreSQL without Debian's habit of making and starting a cluster with the package.
install_postgres() {
    habit=/etc/postgresql-common/createcluster.d/walkeeper.conf
    mkdir -p "${habit%/*}" && echo 'create_main_cluster = false' >"$habit"
    apt_install postgresql && rm -f "$habit"
}

# What the tests start beside Python: from Debian as root; without root what can be unpacked.
install_test_tools() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        has_postgres || install_postgres
        missing=
        for tool in age zstd openssl busybox npm chromium radosgw ceph-mon ceph-osd; do
            command -v "$tool" >/dev/null || missing="$missing $tool"
        done
        # shellcheck disable=SC2086 # a list of words
        [ -z "$missing" ] || apt_install $missing
        return
    fi
    mkdir -p "$ENV/bin"
    for tool in age zstd; do
        command -v "$tool" >/dev/null && continue
        apt_unpack "$ENV/debian" "$tool" && ln -sf ../debian/usr/bin/"$tool" "$ENV/bin/$tool" ||
            echo "missing for the tests: $tool" >&2
    done
    for tool in openssl busybox npm chromium radosgw ceph-mon ceph-osd; do
        command -v "$tool" >/dev/null || echo "missing for the tests (needs root): $tool" >&2
    done
}
