#!/bin/sh
# Users and their keys, with the settings of runtime/config.env and .env. A thin shell over `hugind`.
set -eu

me=$0
while [ -L "$me" ]; do
    target=$(readlink "$me")
    case "$target" in /*) me=$target ;; *) me=$(dirname -- "$me")/$target ;; esac
done
root=$(CDPATH= cd -- "$(dirname -- "$me")/.." && pwd -P)
. "$root/runtime/environment.sh"
hugind="$root/runtime/.venv/bin/hugind"

usage() {
    cat <<EOF
usage: ./bin/user_management_cli.sh COMMAND [OPTIONS]

  init-db                        make the tables: once, before the first user, where the database is PostgreSQL
  create-user --username NAME    make a user, and print the first key: it is shown this once
                                 (--requests 60 --window 60 --tokens-per-day N --concurrent N --no-key ...)
  list-users
  disable-user --username NAME   refuse every key of a user, until enable-user
  enable-user --username NAME
  delete-user --username NAME    for good, with every key; asks, unless --yes
  create-key --username NAME     print another key  (--expires 30d --models A,B --scopes A,B --from NET --note TEXT ...)
  list-keys [--username NAME]
  rotate-key --key ID            print a new key for an old one  (--grace 24h: so long the old one is good, too)
  revoke-key --key ID            for good; asks, unless --yes
  usage [--username NAME]        who used what  (--since 7d --by day --csv ...)

COMMAND --help tells all its options. Each is a command of hugind: create-user is 'hugind user create', and so on.
EOF
}

need() {
    [ -n "$1" ] && return
    echo "error: $command needs $2" >&2
    echo "hint:  ./bin/user_management_cli.sh --help" >&2
    exit 2
}

command=${1:-help}
[ $# -gt 0 ] && shift
case "$command" in
    help|-h|--help) usage; exit 0 ;;
    init-db|create-user|list-users|disable-user|enable-user|delete-user) ;;
    create-key|list-keys|rotate-key|revoke-key|usage) ;;
    *) echo "user_management_cli.sh: no command '$command'" >&2; usage >&2; exit 2 ;;
esac
if [ ! -x "$hugind" ]; then
    echo "error: hugind is not installed yet" >&2
    echo "hint:  ./bin/bootstrap_user_cli.sh" >&2
    exit 3
fi
load_environment

# --username and --key are taken out; everything else goes on as it is.
user="" key="" left=$#
while [ "$left" -gt 0 ]; do
    case "$1" in
        --username=*) user=${1#*=} ;;
        --key=*) key=${1#*=} ;;
        --username|--key)
            [ "$left" -gt 1 ] || need "" "a value for $1"
            if [ "$1" = --username ]; then user=$2; else key=$2; fi
            shift
            left=$((left - 1)) ;;
        -h|--help) user=${user:--} key=${key:--}; set -- "$@" "$1" ;; # whoever asks need not say for whom
        *) set -- "$@" "$1" ;;
    esac
    shift
    left=$((left - 1))
done

case "$command" in
    init-db) exec "$hugind" db init "$@" ;;
    list-users) exec "$hugind" user list "$@" ;;
    create-user|disable-user|enable-user|delete-user)
        need "$user" "--username NAME"
        exec "$hugind" user "${command%-user}" "$user" "$@" ;;
    create-key)
        need "$user" "--username NAME"
        exec "$hugind" key create --user "$user" "$@" ;;
    list-keys) exec "$hugind" key list ${user:+--user "$user"} "$@" ;;
    rotate-key|revoke-key)
        need "$key" "--key ID"
        exec "$hugind" key "${command%-key}" "$key" "$@" ;;
    usage) exec "$hugind" usage ${user:+--user "$user"} ${key:+--key "$key"} "$@" ;;
esac
