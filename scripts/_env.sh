# Sourced by the scripts beside it. Says where things are:
#   ROOT      the checkout
#   RUN_USER  who runs servers and hooks: PostgreSQL refuses root, so under root it is postgres or nobody
#   ENV       the virtual environment: .venv in the checkout, or, where RUN_USER cannot read the
#             checkout (a clone under /root), a directory that RUN_USER can read
#   EDITABLE  -e where the environment uses the checkout's own files, empty where it holds a copy
set -eu
umask 022 # what is made here must be readable by RUN_USER
ROOT=$(cd "$(dirname "$0")/.." && pwd -P)
RUN_USER=
[ "$(id -u)" != 0 ] || RUN_USER=$(id -un postgres 2>/dev/null || echo nobody)

as_run_user() {
    [ -n "$RUN_USER" ] || { "$@"; return; }
    setpriv --reuid "$RUN_USER" --regid "$(id -g "$RUN_USER")" --clear-groups "$@"
}

fail() { echo "${0##*/}: $*" >&2; exit 1; }

if as_run_user test -r "$ROOT/walkeeper/__init__.py"; then
    ENV=$ROOT/.venv EDITABLE=-e
else
    ENV=/var/cache/walkeeper-$(printf %s "$ROOT" | sha256sum | cut -c1-12) EDITABLE=
fi
PATH=$ENV/bin:$PATH
