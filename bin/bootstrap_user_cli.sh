#!/bin/sh
# Make users possible, once: install hugind where that was not done, write .env where there is none, make the database.
# What is done is not done again, so it may be run at any time. Arguments go to runtime/install.sh.
set -eu

me=$0
while [ -L "$me" ]; do
    target=$(readlink "$me")
    case "$target" in /*) me=$target ;; *) me=$(dirname -- "$me")/$target ;; esac
done
root=$(CDPATH= cd -- "$(dirname -- "$me")/.." && pwd -P)
. "$root/runtime/environment.sh"

write_dotenv() {
    [ -e "$dotenv_file" ] && return
    (
        umask 077
        cat >"$dotenv_file.part" <<'EOF'
# Where users, keys and usage are on record. Nothing here: SQLite, in ~/.hugind/hugind.db.
#
# For PostgreSQL take the marks away and run ./bin/user_management_cli.sh init-db. The database must be there, and the
# user allowed to make tables in it. The shell reads this file: a value with spaces, dollars or the like needs quotes.
#POSTGRES_AUTH_HOST=127.0.0.1
#POSTGRES_AUTH_PORT=5432
#POSTGRES_AUTH_DB=hugind
#POSTGRES_AUTH_USER=hugind
#POSTGRES_AUTH_PASSWORD='a secret'
#POSTGRES_AUTH_SSLMODE=prefer
#
# A folder as host is the UNIX socket in it: POSTGRES_AUTH_HOST=/var/run/postgresql
# Or, instead of all these: DATABASE_URL='postgresql://hugind:secret@127.0.0.1:5432/hugind'
EOF
        mv "$dotenv_file.part" "$dotenv_file"
    )
    echo "made $dotenv_file: users are kept in SQLite, unless it names a PostgreSQL" >&2
}

case "${1:-}" in
    -h|--help)
        echo "usage: ./bin/bootstrap_user_cli.sh [--offline]"
        sed -n '2,3s/^# \{0,1\}//p' "$root/bin/bootstrap_user_cli.sh"
        echo "Then: ./bin/user_management_cli.sh create-user --username alice"
        exit 0 ;;
esac
write_dotenv
"$root/runtime/install.sh" "$@"
load_environment
"$root/runtime/.venv/bin/hugind" db init
echo "make a user: ./bin/user_management_cli.sh create-user --username alice" >&2
