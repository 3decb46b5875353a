#!/bin/sh
# Write requirements/*.txt: one set of pins with hashes for every Python from 3.11 and every architecture.
#
# The files hold no address, so they work with whatever package index the machine is set up for.
# Without arguments, pins that still fit are kept; --upgrade takes the newest of everything.
set -eu

cd "$(dirname -- "$0")/../requirements"

command -v uv >/dev/null 2>&1 || {
    echo "make lock needs uv, which writes universal pins. Install it (pip install uv) and try again." >&2
    exit 1
}

compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --no-emit-find-links --annotation-style line "$@"
    echo "wrote requirements/$output.txt"
}

# What is shared is bound from file to file: dev.txt repeats run.txt, train.txt fits into the same environment.
for output in run dev train bench; do
    case $output in
    run) compile "$@" ../pyproject.toml --extra client run.in --output-file run.txt ;;
    dev) compile "$@" ../pyproject.toml --extra client run.in dev.in --constraint run.txt --output-file dev.txt ;;
    train) compile "$@" train.in --constraint dev.txt --output-file train.txt ;;
    bench) compile "$@" bench.in --output-file bench.txt ;;
    esac
done
