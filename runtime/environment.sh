# Sourced by console.sh, runtime/install.sh and bin/*.sh, which set $root: where the two files are that say how hugind
# is to run here, and how they are read.
#
#   runtime/config.env   where to listen, what to serve, the keys of this machine   (HUGIND_CONFIG_ENV: another file)
#   .env                 the database: POSTGRES_AUTH_* or DATABASE_URL; optional    (HUGIND_DOTENV: another file)

env_file=${HUGIND_CONFIG_ENV:-"$root/runtime/config.env"}
case "$env_file" in /*) ;; *) env_file="$PWD/$env_file" ;; esac
dotenv_file=${HUGIND_DOTENV:-"$root/.env"}
case "$dotenv_file" in /*) ;; *) dotenv_file="$PWD/$dotenv_file" ;; esac
export HUGIND_CONFIG_ENV="$env_file" HUGIND_DOTENV="$dotenv_file"

# What they set is exported. They are read as the shell reads them: a value with a space or a dollar needs quotes.
load_environment() {
    set -a
    for given_file in "$env_file" "$dotenv_file"; do
        [ -e "$given_file" ] || continue
        # shellcheck disable=SC1090
        . "$given_file" || { echo "error: $given_file cannot be read by the shell" >&2; exit 1; }
    done
    set +a
    unset HUGIND_ADMIN_KEY # for people and their programs: nothing that is started here has use for it
}
