#!/bin/sh
# hugind for people: start, stop, restart, status, logs, test. A thin shell over runtime/install.sh and `hugind`.
set -eu

me=$0
while [ -L "$me" ]; do
    target=$(readlink "$me")
    case "$target" in /*) me=$target ;; *) me=$(dirname -- "$me")/$target ;; esac
done
root=$(CDPATH= cd -- "$(dirname -- "$me")" && pwd -P)
bin="$root/runtime/.venv/bin"
. "$root/runtime/environment.sh"

usage() {
    cat <<EOF
usage: ./console.sh COMMAND

  start [--offline]   install on the first run, then start the gateway in the background;
                      --offline: use the demo model, ask the internet for nothing but Python packages
  stop                let running turns finish, then stop everything
  restart             stop and start again; changes in runtime/config.env and .env take effect (stop and restart mean
                      every gateway of the hugind home)
  status [--json]     what runs: gateway, engines, workers
  logs [-f] [CONFIG]  the gateway's log, or that of a config's llama-servers
  test [ARGS]         every check and the whole test suite, on the real engine; ARGS go to pytest

Users and their keys: ./bin/user_management_cli.sh --help. Everything else: runtime/.venv/bin/hugind --help
EOF
}

load_config() {
    load_environment
    LLAMA_MODEL=${LLAMA_MODEL:-demo}
}

# Words on purpose: LLAMA_MODEL may name several configs.
start() {
    # shellcheck disable=SC2086
    "$bin/hugind" server start $LLAMA_MODEL --detach
    echo "  key       LLAMA_API_KEY in $env_file" >&2
    case "${LLAMA_PROXY_ENABLED:-}" in
        1|[Tt]rue|TRUE|[Yy]es|YES|[Oo]n|ON)
            echo "  users     on port ${LLAMA_PROXY_PORT:-8001}, each with a key: ./bin/user_management_cli.sh --help" >&2 ;;
    esac
    echo "  stop      ./console.sh stop" >&2
}

restart() {
    # shellcheck disable=SC2086
    "$bin/hugind" server start $LLAMA_MODEL --check # before anything is stopped
    "$bin/hugind" server stop
    start
}

need_install() {
    if [ ! -x "$bin/hugind" ] || [ ! -e "$env_file" ]; then
        echo "hugind is not installed yet; ./console.sh start does that" >&2
        exit 3
    fi
    load_config
}

run_checks() {
    "$root/runtime/install.sh" --dev
    cd "$root"
    step() { echo "== $*" >&2; "$bin/$@"; }
    step ruff format --check .
    step ruff check .
    step mypy
    step lint-imports --no-cache
    step pytest "$@"
}

command=${1:-help}
[ $# -gt 0 ] && shift
case "$command" in
    start) "$root/runtime/install.sh" "$@"; load_config; start ;;
    stop) need_install; "$bin/hugind" server stop "$@" ;;
    restart) need_install; "$root/runtime/install.sh" "$@"; restart ;;
    status) need_install; "$bin/hugind" server status "$@" ;;
    logs) need_install; "$bin/hugind" server logs "$@" ;;
    test) run_checks "$@" ;;
    help|-h|--help) usage ;;
    *) echo "console.sh: no command '$command'" >&2; usage >&2; exit 2 ;;
esac
