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

# What KServe's package asks for and its client never imports: what its server needs, and half of what there is to fetch.
unused='PyJWT aiohappyeyeballs aiohttp aiohttp-retry aiosignal attrs cffi cryptography frozenlist grpcio-tools httptools
multidict pillow propcache pyasn1 pycparser python-dotenv setuptools tzdata uvloop websockets yarl'

# What is shared is bound from file to file: dev.txt repeats run.txt and engine-lb.txt, train.txt fits into the
# same environment, and what an image holds has the versions that the tests ran with.
for output in run engine-lb dev engine operator train bench kserve; do
    case $output in
    run) compile "$@" ../pyproject.toml --extra client run.in --output-file run.txt ;;
    engine-lb) compile "$@" engine-lb.in --output-file engine-lb.txt ;;
    dev)
        compile "$@" ../pyproject.toml --extra client --extra operator run.in engine-lb.in dev.in \
            --constraint run.txt --constraint engine-lb.txt --output-file dev.txt
        ;;
    engine) compile "$@" ../pyproject.toml --extra engine --constraint dev.txt --output-file engine.txt ;;
    operator) compile "$@" ../pyproject.toml --extra operator --constraint dev.txt --output-file operator.txt ;;
    train) compile "$@" train.in --constraint dev.txt --output-file train.txt ;;
    bench) compile "$@" bench.in --output-file bench.txt ;;
    kserve)
        # shellcheck disable=SC2086  # words on purpose
        compile "$@" $(printf -- '--no-emit-package %s ' $unused) kserve.in --output-file kserve.txt
        ;;
    esac
done
