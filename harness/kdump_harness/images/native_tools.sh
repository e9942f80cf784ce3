#!/bin/sh
# native_tools.sh put|use|remove TREE: programs of this host in a tree of another architecture.
# Package scripts start small tools by the thousand, and the emulator translates each of them anew.
#   put     in /usr/local/bin, for what is found by PATH (dpkg-deb, which unpacks)
#   use     in place of those of the tree's own tools that it has already; dpkg then leaves them alone
#   remove  leaves the tree as it would be without them
# dpkg and uname are not among them: their version and words are the tree's.
set -eu

tree=$2
kept=$tree/.native_tools
excluded=$tree/etc/dpkg/dpkg.cfg.d/native_tools
tools="basename cat chmod chown cp cpio cut dash date dd dirname dpkg-deb env expr find getopt grep gzip head id ln ls
mawk md5sum mkdir mkfifo mknod mktemp mv od perl readlink realpath rm rmdir sed sha256sum sort stat tail tar tee touch
tr uniq wc xargs xz zstd"

# Copy a file or directory of this host to a place in the tree, and remember it, and what it is in if that is new.
lend() {
    directory=${2%/*}
    if [ ! -d "$tree$directory" ]; then
        if [ "$directory" = /lib64 ]; then
            # Packages refuse a tree where it is no link.
            ln -s usr/lib64 "$tree/lib64"
            echo /lib64 >>"$kept/files"
            directory=/usr/lib64
        fi
        mkdir -p "$tree$directory"
        echo "$directory" >>"$kept/directories"
    fi
    [ ! -e "$tree$2" ] || return 0
    cp -rL "$1" "$tree$2"
    echo "$2" >>"$kept/files"
}

case $1 in
put)
    mkdir -p "$kept/own"
    : >"$kept/files"
    : >"$kept/directories"
    for name in $tools; do
        # A script, or a static program, has no libraries.
        libraries=$(ldd "/usr/bin/$name" 2>/dev/null) || continue
        # The loader is found by its name, other libraries in /usr/lib as well as in /lib.
        for file in $(echo "$libraries" | sed -n 's/.* => \(\/[^ ]*\) (0x.*/\1/p'); do
            lend "$file" "$(readlink -f "${file%/*}")/${file##*/}"
        done
        for file in $(echo "$libraries" | sed -n 's/^[[:space:]]*\(\/[^ ]*\) (0x.*/\1/p'); do
            lend "$file" "$file"
        done
        lend "/usr/bin/$name" "/usr/local/bin/$name"
    done
    # The modules of debconf and the like are the tree's; those with machine code are of perl-base.
    for directory in /usr/lib/*/perl-base; do
        [ ! -d "$directory" ] || lend "$directory" "$directory"
    done
    ;;
use)
    # A tree that usrmerge has not converted yet has some of them in /bin.
    for file in "$tree"/usr/local/bin/*; do
        name=${file##*/}
        for directory in /usr/bin /bin; do
            own=$tree$directory/$name
            if [ -f "$own" ] && [ ! -L "$own" ] && ! grep -qsx "path-exclude=/bin/$name" "$excluded"; then
                mkdir -p "$kept/own$directory"
                mv "$own" "$kept/own$directory/"
                cp "$file" "$own"
                printf 'path-exclude=%s\n' "/usr/bin/$name" "/bin/$name" >>"$excluded"
            fi
        done
    done
    ;;
remove)
    (cd "$kept/own" && find . -type f) | while read -r file; do mv -f "$kept/own/$file" "$tree/$file"; done
    rm -f "$excluded"
    tac "$kept/files" | while read -r file; do rm -r "$tree$file"; done
    # A package may have put something into a directory.
    tac "$kept/directories" | while read -r directory; do rmdir "$tree$directory" 2>/dev/null || true; done
    rm -r "$kept"
    ;;
esac
