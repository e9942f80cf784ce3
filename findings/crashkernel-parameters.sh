#!/bin/sh
# Linux 7.3: a plain crashkernel= wins over ,high without a message, and a suffix makes ranges void.
#
# The parser of kernel/crash_reserve.c is compiled as a program. Distributions package a plain value with ranges, so
# a 256M,high that a user appends reserves nothing. A lone ,cma reserves nothing either. On x86_64 a refused
# word leaves the machine without a capture kernel; only a line in dmesg says so.
# Version: linux-source-7.3 7.3.4-1~bpo13+1. Needs apt-get, curl, dpkg-deb, tar, xz and a C compiler.
set -eu

# The mirror of the host's own apt, unless KDUMP_HARNESS_MIRROR names one.
mirror=${KDUMP_HARNESS_MIRROR:-$(apt-get indextargets --no-release-info --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | head -n 1)}
[ -n "$mirror" ] || { echo "no mirror: set KDUMP_HARNESS_MIRROR to that of a Debian archive" >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
curl -fsSo source.deb "$mirror/pool/main/l/linux/linux-source-7.3_7.3.4-1~bpo13+1_all.deb"
dpkg-deb --fsys-tarfile source.deb | tar -xO --wildcards '*/linux-source-7.3.tar.xz' |
    tar -xJ --strip-components=2 linux-source-7.3/kernel/crash_reserve.c

# The kernel's own text from the first parser to the entry point, between stand-ins for the rest of the kernel.
{
    cat <<'HEAD'
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define __init
#define __initdata
#define __always_unused
#define CONFIG_ARCH_HAS_GENERIC_CRASHKERNEL_RESERVATION
#define DEFAULT_CRASH_KERNEL_LOW_SIZE (256ULL << 20)
#define SZ_128M (128ULL << 20)
#define ULLONG_MAX (~0ULL)
#define BUG_ON(condition)
#define pr_info(...) printf(__VA_ARGS__)
#define pr_warn(...) printf(__VA_ARGS__)
#define roundup(number, to) (((number) + (to) - 1) / (to) * (to))
static unsigned long long memparse(const char *text, char **end)
{
    unsigned long long size = strtoull(text, end, 0);
    const char *units = "KMGTPE", *unit = **end ? strchr(units, **end) : NULL;

    if (!unit)
        return size;
    ++*end;
    return size << 10 * (unit - units + 1);
}
HEAD
    sed -n '/^static int __init parse_crashkernel_mem/,/^int __init parse_crashkernel(/p' crash_reserve.c
    sed -n '/^int __init parse_crashkernel(/,/^}/p' crash_reserve.c | tail -n +2
    cat <<'TAIL'
int main(int count, char **arguments)
{
    unsigned long long size = 0, base = 0, low = 0, cma = 0;
    bool high = false;

    if (count != 3 || parse_crashkernel(arguments[2], strtoull(arguments[1], NULL, 0) << 20, &size, &base, &low, &cma, &high))
        return puts("nothing reserved") < 0;
    printf("%llu MiB%s, low %llu MiB, CMA %llu MiB\n", size >> 20, high ? " high" : "", low >> 20, cma >> 20);
    return 0;
}
TAIL
} >parser.c
cc -w -o parser parser.c

reserves() { # MIB COMMAND_LINE EXPECTED
    said=$(./parser "$1" "$2" | tr '\n' ' ')
    echo "$1 MiB, $2: $said"
    [ "$said" = "$3 " ] || {
        echo "changed: expected $3" >&2
        exit 1
    }
}

reserves 8192 'crashkernel=256M,high crashkernel=72M,low' '256 MiB high, low 72 MiB, CMA 0 MiB'
reserves 8192 'crashkernel=512M-:192M crashkernel=256M,high' '192 MiB, low 0 MiB, CMA 0 MiB'
reserves 8192 'crashkernel=256M,high crashkernel=512M-:192M' '192 MiB, low 0 MiB, CMA 0 MiB'
reserves 8192 'crashkernel=512M-:192M,high' 'crashkernel: unrecognized char: - nothing reserved'
reserves 8192 'crashkernel=128M crashkernel=256M,cma' '128 MiB, low 0 MiB, CMA 256 MiB'
reserves 8192 'crashkernel=256M,cma' 'nothing reserved'
reserves 2000 'crashkernel=2G-:256M' '256 MiB, low 0 MiB, CMA 0 MiB'
