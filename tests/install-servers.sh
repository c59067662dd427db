#!/bin/sh
# Installs the web servers, process spawners and the browser that the tests run against, by apt-get.
#
# Asks for programs, not packages, so a machine that has them from elsewhere is left alone. Nothing
# that gets installed is started: the tests start their own, on ports and sockets of their own.
# Exit status: 0 when everything is there, 1 when something is still missing.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# package, then programs (or files) of which any one will do
needed='
nginx-light nginx
lighttpd lighttpd
apache2 apache2
libapache2-mod-fcgid /usr/lib/apache2/modules/mod_fcgid.so
haproxy haproxy
caddy caddy
h2o h2o
lighttpd-mod-openssl /usr/lib/lighttpd/mod_openssl.so
openssl openssl
curl curl
git git
iproute2 ip
util-linux nsenter
systemd systemd-socket-activate
spawn-fcgi spawn-fcgi
multiwatch multiwatch
libfcgi-bin cgi-fcgi
php-fpm php-fpm php-fpm8.2 php-fpm8.3 php-fpm8.4
chromium chromium chromium-browser google-chrome
chromium-driver chromedriver
strace strace
valgrind valgrind
'

has_any() {
    for program in "$@"; do
        case $program in
            /*) [ -e "$program" ] && return 0 ;;
            *) command -v "$program" >/dev/null && return 0 ;;
        esac
    done
    return 1
}

missing() {
    echo "$needed" | while read -r package programs; do
        # shellcheck disable=SC2086  # a list of words
        [ -z "$package" ] || has_any $programs || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" # nobody there to type a password
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null >/dev/null
}

packages=$(missing)
if [ -z "$packages" ]; then
    echo "install-servers: everything is there"
    exit 0
fi
# shellcheck disable=SC2086
echo "install-servers: missing:" $packages
if ! command -v apt-get >/dev/null; then
    echo "install-servers: no apt-get here; install them by hand" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ] && ! { command -v sudo >/dev/null && as_root true; }; then
    echo "install-servers: neither root nor sudo here; run this script as root" >&2
    exit 1
fi

# Debian starts a server when it is installed, unless this file says "not now" (101).
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
    trap 'as_root rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
fi

apt update || echo "install-servers: apt-get update failed; trying with the lists at hand" >&2
known=
for package in $packages; do
    # Not every distribution has all of them (Ubuntu has no chromium package, say).
    if apt-cache policy "$package" | grep -q 'Candidate: [^(]'; then
        known="$known $package"
    else
        echo "install-servers: apt knows no package $package" >&2
    fi
done
# shellcheck disable=SC2086
[ -z "$known" ] || apt install -y --no-install-recommends $known || true

packages=$(missing)
[ -z "$packages" ] && exit 0
# shellcheck disable=SC2086
echo "install-servers: still missing:" $packages >&2
exit 1
