#!/bin/sh
# The command walkeeper. PostgreSQL starts it for each WAL file, as wal-push and wal-fetch, in a
# bare environment: these go to a small client in a Python without site-packages, and whatever
# happens on the way, they end with the exit codes that PostgreSQL understands: wal-push with 0 or
# 1, wal-fetch with 0, 66 (confirmed absent) or 126. Everything else is python -m walkeeper.

# The exit code unless the client itself has answered. Set before anything can go wrong.
code=1
hook=
value=
rest=
shut=
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
fetch_at_door() {
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

# An agent answers a shell sooner than Python starts: agent/push_door.py has the protocol. Nothing is
# believed here but "ok" in the file that only this shell and the agent know; for all else the client
# asks. Nothing waits for the agent here, only for a sleep, which the agent cuts short.
push_at_door() {
    [ "$1" = wal-push ] || return 1
    case $#,$2 in
    2,*) socket=${WALKEEPER_SOCKET:-/run/walkeeper/agent.sock} path=$2 ;;
    3,--socket=*) socket=${2#*=} path=$3 ;;
    4,--socket) socket=$3 path=$4 ;;
    *) return 1 ;;
    esac
    door=$socket.push
    answer=$door.$$
    case $path in
    -* | *"$newline"*) return 1 ;;
    ?*/*) directory=${path%/*} ;;
    *) return 1 ;;
    esac
    [ "$door" -ef "$door.agent" ] && [ -O "$door" ] && [ -f "$path" ] || return 1
    [ ${#path} -lt 1000 ] || return 1 # in bytes: a write to a FIFO is whole up to 4096
    umask 077
    set -C
    true 2>/dev/null >"$answer" || return 1
    set +C
    # Opened for both, a FIFO never lets wait. A client that still has to ask gets what time is left.
    if { command exec 4<"$answer" 5<>"$door" 6<"$path" 7<"$directory"; } 2>/dev/null; then
        PATH=${PATH-}:/usr/bin:/bin sleep 2 >/dev/null 2>&1 5>&- &
        question=$$$tab$!$tab$path
        rest=--timeout=10
        printf '%s\n' "$question" >&5
        wait $! 2>/dev/null && shut=$door.agent # it was not cut short
        read -r said <&4 && [ "$said" = "$question ok" ] && return 0
    fi
    exec 4<&- 5>&- 6<&- 7<&-
    if [ -n "$shut" ] || [ -e "$answer" ]; then
        PATH=${PATH-}:/usr/bin:/bin rm -f "$answer" ${shut:+"$shut"}
    fi
    return 1
}

tab='	'
newline='
'
case $hook in
wal-push) push_at_door "$@" && code=0 && exit ;;
wal-fetch) fetch_at_door "$@" && code=0 && exit ;;
esac
set +C
[ -z "${rest-}" ] || set -- "$rest" "$@"

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
