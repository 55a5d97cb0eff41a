#!/bin/sh
# The command walkeeper. PostgreSQL starts it for each WAL file, as wal-push and wal-fetch, in a
# bare environment: these go to a small client in a Python without site-packages, and whatever
# happens on the way, they end with the exit codes that PostgreSQL understands: wal-push with 0 or
# 1, wal-fetch with 0, 66 (confirmed absent) or 126. Everything else is python -m walkeeper.

# The exit code unless the client itself has answered. Set before anything can go wrong.
code=1
hook=
value=
status=
for argument; do
    if [ -n "$value" ]; then # of the option before it
        value=
        continue
    fi
    case $argument in
    --config | --archive) value=next ;;
    -*) ;;
    *)
        hook=$argument
        break
        ;;
    esac
done
case $hook in
wal-push) trap 'exit $code' EXIT ;;
wal-fetch) code=126 && trap 'exit $code' EXIT ;;
*) hook= ;;
esac

# A service that fetches ahead answers a shell sooner than Python starts: agent/fetch_door.py has the
# protocol. Nothing is believed here but a file that lies there whole; for all else the client asks.
ask_at_door() {
    for path; do :; done # the last one, %p
    case $path in
    -* | *"$newline"*) return 1 ;;
    */*) door=${path%/*}/.walkeeper.door ;;
    *) return 1 ;;
    esac
    [ -f "$door" ] && [ ! -e "$path" ] || return 1
    { read -r questions && read -r answers; } <"$door" || return 1
    [ -p "$questions" ] && [ -p "$answers" ] || return 1
    own=$$
    IFS=$tab
    question=$own$tab$PWD$tab$*
    unset IFS
    [ ${#question} -lt 1000 ] || return 1 # in bytes: a write to a FIFO is whole up to 4096
    temporary=$path.walkeeper.$own
    umask 077
    set -C
    true 2>/dev/null >"$temporary" || return 1
    set +C
    # "command exec" because exec alone ends the shell when a FIFO has just gone. Opened for both
    # first: that never waits, and when it is closed again only the service still writes there.
    if { command exec 3<>"$answers" && command exec 4<"$answers" 3>&- &&
        command exec 5<>"$questions"; } 2>/dev/null &&
        printf '%s\n' "$question" >&5 && read -r said <&4 &&
        [ "$said" = "${#own} $own ok" ] && [ -s "$temporary" ] &&
        PATH=${PATH-}:/usr/bin:/bin mv -f "$temporary" "$path"; then
        return 0
    fi
    exec 3>&- 4<&- 5>&-
    PATH=${PATH-}:/usr/bin:/bin rm -f "$temporary"
    return 1
}

tab='	'
newline='
'
if [ "$hook" = wal-fetch ] && ask_at_door "$@"; then
    code=0
    exit
fi
set +C

# Where this file really is: links such as /usr/local/bin/walkeeper lead to it.
self=$0
while [ -h "$self" ]; do
    target=$(PATH=${PATH-}:/usr/bin:/bin readlink "$self") || exit
    case $target in
    /*) self=$target ;;
    *) self=${self%/*}/$target ;;
    esac
done
case $self in
*/*) bin=${self%/*} ;;
*) bin=. ;;
esac

python=
for candidate in "$bin/python" "$bin/python3" /usr/bin/python3 /usr/local/bin/python3; do
    if [ -x "$candidate" ]; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "walkeeper: no Python interpreter beside $bin/walkeeper" >&2
    exit 1
fi

if [ -z "$hook" ]; then
    # mallopt(3): with a threshold of its own choice, glibc keeps freed blocks of megabytes in the
    # arenas of threads, and an agent with full hands takes 50 MiB more than it uses. The 256 KiB that
    # Python's TLS asks for to read each 16 KiB stay below it, and below what is given back at once:
    # new pages for each would cost three times the decryption. One arena, for threads take turns
    # anyway, instead of one for each that keeps what it had once.
    : "${MALLOC_MMAP_THRESHOLD_:=524288}" "${MALLOC_TRIM_THRESHOLD_:=2097152}"
    : "${MALLOC_ARENA_MAX:=1}"
    export MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_ MALLOC_ARENA_MAX
    exec "$python" -P -m walkeeper "$@"
fi

run='from walkeeper.hooks.client import main; main(sys.argv[1:])'
for site in "$bin"/../lib/python3*/site-packages "$bin"/../lib/python3*/dist-packages; do
    if [ -f "$site/walkeeper/hooks/client.py" ]; then
        "$python" -I -S -c "import sys; sys.path.append(sys.argv.pop(1)); $run" "$site" "$@"
        status=$?
        break
    fi
done
if [ -z "$status" ]; then # an editable installation, or packages elsewhere
    "$python" -I -c "import sys; $run" "$@"
    status=$?
fi
case $hook$status in
wal-push0) code=0 ;;
wal-fetch0 | wal-fetch66) code=$status ;;
esac
exit
