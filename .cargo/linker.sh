#!/bin/sh
# The linker of this workspace: `cc`. Where a fresh Debian has none, says so, gets it if it may, and goes on.
#
# cargo runs many of these at once, and rustc keeps what a linker prints to itself unless it fails: hence the lock, and
# the detour to cargo's own standard error. The name must not end in "link" or "lld": rustc would take it for those.
set -u

packages="gcc libc6-dev"

ready() {
    command -v cc >/dev/null && { [ -e /usr/include/stdio.h ] || [ ! -e /etc/debian_version ]; }
}

ready && exec cc "$@"

# The nearest cargo above us; ours to tell.
cargo=$PPID
while [ "$cargo" -gt 1 ] && [ "$(cat "/proc/$cargo/comm")" != cargo ]; do
    cargo=$(sed 's/.*) [A-Z] \([0-9]*\) .*/\1/' "/proc/$cargo/stat")
done
say() {
    if [ "$cargo" -gt 1 ] && { printf '%s\n' "$1" >>"/proc/$cargo/fd/2"; } 2>/dev/null; then :; else
        printf '%s\n' "$1" >&2
    fi
}
stop() {
    # On our own standard error: rustc shows it with its "linking failed".
    printf '%s\n' "No C compiler (cc) to link with. Install it, then run the same command again:" "    $1" >&2
    exit 1
}

# One asks and installs; the others wait for it here and find the compiler there.
exec 9<"$0"
flock 9
ready && exec cc "$@"

[ -e /etc/debian_version ] || stop "your system's packages for a C compiler and the C library's headers"
install="apt-get install --yes --no-install-recommends $packages"
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || stop "$install   (as root)"
    agreed=$(tr '\0' '\n' <"/proc/$cargo/cmdline" | grep -cx -- '--yes')
    if [ "$agreed" = 0 ]; then
        { exec 8<>/dev/tty; } 2>/dev/null || stop "sudo $install"
        printf '\nThis needs the Debian packages %s.\nInstall them now with sudo? [y/N] ' "$packages" >&8
        read -r answer <&8
        case $answer in y | Y | yes) ;; *) stop "sudo $install" ;; esac
    fi
    sudo="sudo"
else
    sudo=""
fi
say "==> No C compiler here. Installing the Debian packages: $packages"
log=$(mktemp)
# A fresh machine's package lists may be missing or old: fetch them and try again before giving up.
if $sudo env DEBIAN_FRONTEND=noninteractive sh -c "$install || { apt-get update && $install; }" >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    say "==> Installed: $packages"
else
    tail -n 20 "$log" >&2
    rm -f "$log"
    stop "${sudo:+$sudo }$install"
fi
exec cc "$@"
