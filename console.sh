#!/bin/sh
# hugind for people: start, stop, restart, status, logs, test. A thin shell over runtime/install.sh and `hugind`.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
env_file=${HUGIND_CONFIG_ENV:-"$root/runtime/config.env"}
bin="$root/runtime/.venv/bin"

usage() {
    cat <<EOF
usage: ./console.sh COMMAND

  start [--offline]   install on the first run, then start the gateway in the background;
                      --offline: use the demo model, ask the internet for nothing but Python packages
  stop                let running turns finish, then stop everything
  restart             stop and start again; changes in runtime/config.env take effect
  status [--json]     what runs: gateway, engines, workers
  logs [-f] [CONFIG]  the gateway's log, or that of a config's llama-servers
  test [ARGS]         every check and the whole test suite, on the real engine; ARGS go to pytest

Everything else: runtime/.venv/bin/hugind --help
EOF
}

load_config() {
    "$root/runtime/install.sh" "$@"
    set -a
    # shellcheck disable=SC1090
    . "$env_file"
    set +a
}

start() {
    load_config "$@"
    # Words on purpose: LLAMA_MODEL may name several configs.
    # shellcheck disable=SC2086
    "$bin/hugind" server start $LLAMA_MODEL --detach
    echo "  key       LLAMA_API_KEY in $env_file" >&2
    echo "  stop      ./console.sh stop" >&2
}

need_install() {
    if [ ! -x "$bin/hugind" ]; then
        echo "hugind is not installed yet; ./console.sh start does that" >&2
        exit 3
    fi
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
    start) start "$@" ;;
    stop) need_install; "$bin/hugind" server stop "$@" ;;
    restart) need_install; "$bin/hugind" server stop; start "$@" ;;
    status) need_install; "$bin/hugind" server status "$@" ;;
    logs) need_install; "$bin/hugind" server logs "$@" ;;
    test) run_checks "$@" ;;
    help|-h|--help) usage ;;
    *) echo "console.sh: no command '$command'" >&2; usage >&2; exit 2 ;;
esac
