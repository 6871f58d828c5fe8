#!/bin/bash
# RUSTC_WORKSPACE_WRAPPER of the programs that people and boxes run: cargo calls `static.sh rustc …` for the crates of this
# workspace alone, so that the dependencies are compiled as ever. Static, a program runs on a box that has no library at all.
#
# Programs only: cargo also asks the compiler through this which kinds of crate it can make, and with the flag its answer
# would be that it can make no procedural macros. bash, since dash does not hand on variables like CARGO_BIN_EXE_oca-fill.
case " $* " in
*" --crate-type proc-macro "*) exec "$@" ;;
*" --crate-type bin "*) exec "$@" -C target-feature=+crt-static ;;
*) exec "$@" ;;
esac
