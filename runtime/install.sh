#!/bin/sh
# Install hugind into runtime/.venv, write runtime/config.env, put the demo model in place, make the database and in it
# the first key for everything. What is done is not done again, so it may be run at any time. Asks nothing.
#
#   --offline   no word about models from the internet
#   --dev       with the tools that the tests need
#   PYTHON=...  the interpreter to use (3.11 or later)
#   HUGIND_CONFIG_ENV=...  another place for config.env; HUGIND_DOTENV=...: for .env
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
root=$(dirname -- "$here")
venv="$here/.venv"
. "$here/environment.sh"
extras=""
offline=no

for argument in "$@"; do
    case "$argument" in
        --offline) offline=yes ;;
        --dev) extras="[dev]" ;;
        -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "install.sh: unknown option '$argument' (--offline, --dev)" >&2; exit 2 ;;
    esac
done

say() { echo "$*" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "error: no Python 3.11 or later was found"
    say "hint:  install one, or name it: PYTHON=/path/to/python3 ./console.sh start"
    exit 1
}

make_venv() {
    python=$(find_python)
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        say "making runtime/.venv with $("$python" --version)"
        rm -rf "$venv"
        if ! "$python" -m venv "$venv" 2>"$here/install.log"; then
            cat "$here/install.log" >&2
            rm -rf "$venv"
            say "hint:  on Debian and Ubuntu: apt install python3-venv"
            exit 1
        fi
    fi
}

# The stamp names what was installed: it changes with pyproject.toml, with this checkout's place, and with the extras.
install_packages() {
    want="$root $extras $(cksum <"$root/pyproject.toml")"
    dev="$root [dev] $(cksum <"$root/pyproject.toml")"
    stamp="$venv/hugind-installed"
    have=$(cat "$stamp" 2>/dev/null || true)
    if [ "$have" = "$want" ] || [ "$have" = "$dev" ]; then
        return
    fi
    say "installing hugind and what it needs (a minute or two; log: runtime/install.log)"
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check -e "$root$extras" >"$here/install.log" 2>&1; then
        tail -n 20 "$here/install.log" >&2
        say "error: the packages could not be installed; the whole story is in $here/install.log"
        exit 1
    fi
    echo "$want" >"$stamp"
}

write_config() {
    [ -e "$env_file" ] && return
    key=$("$venv/bin/python" -c 'import secrets; print("hgd_" + secrets.token_urlsafe(32))')
    (
        umask 077
        cat >"$env_file.part" <<EOF
# Made by runtime/install.sh. Edit it and run ./console.sh restart.
LLAMA_API_KEY=$key
LLAMA_SERVER_HOST=127.0.0.1
LLAMA_SERVER_PORT=8000
# What is served: see ./console.sh models; ./console.sh start NAME changes it. Or several: LLAMA_MODEL="one two"
LLAMA_MODEL=demo
# 1: nobody is served without a key, and the gateway listens on LLAMA_PROXY_PORT instead of LLAMA_SERVER_PORT. Users and
# their keys: ./bin/user_management_cli.sh
LLAMA_PROXY_ENABLED=0
LLAMA_PROXY_PORT=8001
# So many requests of each user in any so many seconds, unless a user has limits of their own; 0: no limit
LLAMA_PROXY_RATE_LIMIT=60
LLAMA_PROXY_RATE_WINDOW_SECONDS=60
EOF
        mv "$env_file.part" "$env_file"
    )
    say "made $env_file with a new API key"
}

put_demo() {
    (
        load_environment # HUGIND_HOME may be set there
        "$venv/bin/hugind" config demo --quiet
    )
}

# SQLite is made by itself; a PostgreSQL that is named may be away. The key is shown, and kept: nobody can ask for it again.
make_admin() {
    grep -q HUGIND_ADMIN_KEY "$env_file" && return
    if ! key=$(load_environment && "$venv/bin/hugind" db init --first-admin); then
        say "going on without users; once the database can be used: ./bin/bootstrap_user_cli.sh"
        return
    fi
    [ -z "$key" ] || echo "$key"
    if ! admin_lines >>"$env_file" || ! chmod 600 "$env_file"; then
        say "it could not be kept in $env_file"
    fi
}

admin_lines() {
    echo
    if [ -n "$key" ]; then
        echo "# Opens everything, users and their keys too: for the admin API. hugind's own commands need none."
        echo "HUGIND_ADMIN_KEY=$key"
    else
        echo "# No HUGIND_ADMIN_KEY: there was a user 'admin' already. Another key: hugind key create --user admin --scopes all"
    fi
}

make_venv
install_packages
write_config
put_demo
make_admin
if [ "$offline" = no ] && [ -z "$extras" ] && grep -q '^LLAMA_MODEL=demo$' "$env_file"; then
    say "LLAMA_MODEL is the demo, which answers with noise; for a real model see README.md"
fi
