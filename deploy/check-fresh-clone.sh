#!/bin/bash
# Proves the README: in a new minimal Debian with only git and make added, a clone of this checkout
# sets itself up, builds and passes with the README's two commands. Prints how long each took.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: deploy/check-fresh-clone.sh [--dir DIR] [--keep] [--only quickstart|test|COMMAND]

Makes a Debian with `debootstrap --variant=minbase`, clones the committed state of this checkout
into it and runs `make quickstart` and `make test` there. Needs root and debootstrap.

  --dir DIR       where the Debian goes (default: a new directory under TMPDIR); one that is
                  already there is used again
  --keep          keep the directory; it is also kept when something failed
  --only COMMAND  run `make COMMAND` instead of the two commands

Environment: TOCSIN_SUITE (default: this machine's), TOCSIN_MIRROR (default: the mirror this
machine's apt uses for that suite).
EOF
}

dir='' keep=0 commands=(quickstart test)
while [ $# -gt 0 ]; do
  case "$1" in
    --dir) dir=$2; shift ;;
    --keep) keep=1 ;;
    --only) commands=("$2"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "check-fresh-clone: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

say() { echo "check-fresh-clone: $*"; }
fail() { say "$*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "run me as root: debootstrap and chroot need it"
command -v debootstrap >/dev/null || fail "debootstrap is missing: deploy/install-deps --tests"

checkout=$(cd "$(dirname "$0")/.." && pwd)
suite=${TOCSIN_SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
# "site suite component" of every package list this machine's apt reads.
targets=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' \
  'Created-By: Packages' | sort -u)
mirror=${TOCSIN_MIRROR:-$(awk -v s="$suite" '$2 == s { print $1; exit }' <<<"$targets")}
[ -n "$mirror" ] || fail "this machine's apt has no mirror of $suite; set TOCSIN_MIRROR"

made=0
if [ -z "$dir" ]; then
  dir=$(mktemp -d "${TMPDIR:-/tmp}/tocsin-fresh.XXXXXX")
  made=1
fi
dir=$(realpath -m "$dir")
finished=0
on_exit() {
  if [ "$finished" = 1 ] && [ "$made" = 1 ] && [ "$keep" = 0 ]; then
    rm -rf --one-file-system "$dir"
  else
    say "the Debian is kept in $dir"
  fi
}
trap on_exit EXIT
trap 'exit 130' INT TERM

if [ ! -e "$dir/etc/debian_version" ]; then
  say "debootstrap --variant=minbase $suite into $dir"
  started=$SECONDS
  includes=()
  [[ $mirror == https:* ]] && includes=(--include=ca-certificates)
  debootstrap --variant=minbase "${includes[@]}" "$suite" "$dir" "$mirror" >"$dir.log" 2>&1 \
    || { tail -20 "$dir.log" >&2; fail "debootstrap failed; its output is $dir.log"; }
  rm -f "$dir.log"
  say "debootstrap took $((SECONDS - started)) s"
fi

# The clone reaches packages the way this machine does: same mirrors, same download settings.
if [ -z "${TOCSIN_MIRROR:-}" ]; then
  awk -v s="$suite" 'index($2, s) == 1 { print "deb", $1, $2, $3 }' <<<"$targets" \
    >"$dir/etc/apt/sources.list"
fi
apt-config dump | grep '^Acquire::' >"$dir/etc/apt/apt.conf.d/00host" || true
for file in /etc/resolv.conf /etc/hosts; do
  [ -e "$file" ] && cp -L "$file" "$dir$file"
done

rm -rf "$dir/srv/tocsin"
git -c safe.directory='*' clone --quiet --no-hardlinks "$checkout" "$dir/srv/tocsin"
# Its origin is a path of this machine; the clone needs none.
git -c safe.directory='*' -C "$dir/srv/tocsin" remote remove origin
say "cloned $(git -c safe.directory='*' -C "$dir/srv/tocsin" log -1 --format='%h %s')"
git -c safe.directory='*' -C "$checkout" diff --quiet HEAD \
  || say "note: changes that are not committed are not in the clone"

# inside COMMAND...: runs it in the Debian with a clean environment, in namespaces of its own so
# that mounts and processes end with it; where namespaces are forbidden, in a plain chroot.
own_namespaces=(unshare --mount --pid --fork --kill-child)
"${own_namespaces[@]}" true 2>/dev/null || own_namespaces=()
inside() {
  "${own_namespaces[@]}" bash -c '
    dir=$1; shift
    if [ "$$" = 1 ]; then
      mount -t proc proc "$dir/proc" || echo "check-fresh-clone: no /proc inside" >&2
      # Without it glibc sets errno when it counts processors, and gRPC takes that for its own.
      mount -t sysfs -o ro sysfs "$dir/sys" || echo "check-fresh-clone: no /sys inside" >&2
      mkdir -p "$dir/dev/shm" && mount -t tmpfs tmpfs "$dir/dev/shm" || true
    fi
    exec chroot "$dir" env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"' \
    inside "$dir" "$@"
}

say "apt-get install git make"
inside env DEBIAN_FRONTEND=noninteractive sh -c \
  'apt-get -q update && apt-get -q install -y --no-install-recommends git make' \
  >"$dir/apt.log" 2>&1 \
  || { tail -20 "$dir/apt.log" >&2; fail "git and make could not be installed"; }

summary=()
status=0
for command in "${commands[@]}"; do
  say "make $command"
  started=$SECONDS
  if inside make -C /srv/tocsin --no-print-directory "$command"; then
    summary+=("make $command: succeeded in $((SECONDS - started)) s")
  else
    summary+=("make $command: FAILED after $((SECONDS - started)) s")
    status=1
    break
  fi
done
for line in "${summary[@]}"; do say "$line"; done
[ "$status" = 0 ] && finished=1
exit "$status"
