#!/bin/sh
# hugind for people: models, start, stop, restart, status, logs, test. A thin shell over runtime/install.sh and `hugind`.
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

  models [--json]     what can be started: configs, models of the library; their aliases; which is served, which chosen
  start [MODEL...] [--offline]
                      install on the first run, then start the gateway in the background; MODEL is chosen from then
                      on (LLAMA_MODEL in runtime/config.env), without one it is the one chosen last;
                      --offline: use the demo model, ask the internet for nothing but Python packages
  stop                let running turns finish, then stop everything
  restart [MODEL...]  stop and start again, with another model if one is named; changes in runtime/config.env and .env
                      take effect (stop and restart mean every gateway of the hugind home)
  status [--json]     what runs: gateway, engines, workers
  logs [-f] [CONFIG]  the gateway's log, or that of a config's llama-servers
  test [ARGS]         every check and the whole test suite, on the real engine; ARGS go to pytest

Users and their keys: ./bin/user_management_cli.sh --help. Everything else: runtime/.venv/bin/hugind --help
EOF
}

# What begins with a dash is for the installer, the rest are models.
read_arguments() {
    chosen="" options=""
    for argument in "$@"; do
        case "$argument" in
            -*) options="$options $argument" ;;
            ''|*[!A-Za-z0-9._:/@+-]*) echo "console.sh: '$argument' is no name of a model; see ./console.sh models" >&2; exit 2 ;;
            *) chosen="${chosen:+$chosen }$argument" ;;
        esac
    done
}

install() {
    # shellcheck disable=SC2086
    "$root/runtime/install.sh" $options
}

load_config() {
    load_environment
    LLAMA_MODEL=${chosen:-${LLAMA_MODEL:-demo}}
}

# The choice is kept once it is served. The other lines stay, and nobody ever sees half a file.
keep_choice() {
    [ -n "$chosen" ] || return 0
    line="LLAMA_MODEL=$chosen"
    case "$chosen" in *" "*) line="LLAMA_MODEL=\"$chosen\"" ;; esac
    (
        umask 077
        awk -v line="$line" '
            /^[ \t]*(export[ \t]+)?LLAMA_MODEL=/ { if (!said) print line; said = 1; next }
            { print }
            END { if (!said) print line }
        ' "$env_file" >"$env_file.part"
        mv "$env_file.part" "$env_file"
    )
}

# Words on purpose: LLAMA_MODEL may name several models.
start() {
    # shellcheck disable=SC2086
    if ! "$bin/hugind" server start $LLAMA_MODEL --detach; then
        if [ -n "$chosen" ] && "$bin/hugind" server status >/dev/null 2>&1; then
            echo "hint:  something is served already; to exchange it: ./console.sh restart $chosen" >&2
        fi
        exit 1
    fi
    keep_choice
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
    step pytest -n 2 --dist loadfile "$@"
}

command=${1:-help}
chosen="" options=""
[ $# -gt 0 ] && shift
case "$command" in
    models) need_install; OLLAMA_HOST='' "$bin/hugind" list --chosen "$LLAMA_MODEL" "$@" ;;
    start) read_arguments "$@"; install; load_config; start ;;
    stop) need_install; "$bin/hugind" server stop "$@" ;;
    restart) read_arguments "$@"; need_install; install; load_config; restart ;;
    status) need_install; "$bin/hugind" server status "$@" ;;
    logs) need_install; "$bin/hugind" server logs "$@" ;;
    test) run_checks "$@" ;;
    help|-h|--help) usage ;;
    *) echo "console.sh: no command '$command'" >&2; usage >&2; exit 2 ;;
esac
