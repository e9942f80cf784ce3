"""The rules of --redact: a corpus of secrets, ordinary logs, and texts that are made to take long."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from kdump_harness.redaction.texts import COMMAND_LINES, kinds, redact_text

CONSOLES = sorted((Path(__file__).parents[1] / "data" / "consoles").glob("*.log"))
SECRET = "Qw3rTy77"
# Each text has the secret once at least; the values are made up.
FORMS = {
    "kernel command line": "[    0.0] Kernel command line: root=/dev/vda rd.luks.key=Qw3rTy77",
    "BOOT_IMAGE": "BOOT_IMAGE=/vmlinuz rd.iscsi.password=Qw3rTy77 ro",
    "unknown parameters": 'Unknown kernel command line parameters "vaultkey=Qw3rTy77", will be passed',
    "password=": "password=Qw3rTy77",
    "PASSWORD:": "DB_PASSWORD: Qw3rTy77",
    "quoted password": 'password = "two Qw3rTy77 words"',
    "json": '{"user": "a", "password": "Qw3rTy77", "n": 1}',
    "two words": "password = correct Qw3rTy77",
    "yaml block": "password: |\n  Qw3rTy77\nport: 22\n",
    "pass=": "user=kdump pass=Qw3rTy77",
    "pwd=": "Server=db;Uid=sa;Pwd=Qw3rTy77;",
    "psk=": 'psk="Qw3rTy77"',
    "passphrase without =": 'passphrase "Qw3rTy77"',
    "private_key=": "private_key=Qw3rTy77",
    "PrivateKey": "PrivateKey = gI6Qw3rTy77EdYUtAoc2LYVCsW1RLfYWgPHGmAfTtmM=",
    "PreSharedKey": "PreSharedKey=aa6Qw3rTy77EdYUtAoc2LYVCsW1RLfYWgPHGmAfTtmM=",
    "credentials": "credentials=Qw3rTy77",
    "client_secret": "client_secret=Qw3rTy77",
    "access_token": "access_token=Qw3rTy77",
    "api_key": "api_key: Qw3rTy77",
    "x-api-key": "x-api-key: Qw3rTy77",
    "encryption key": "encryption_key = Qw3rTy77",
    "AKIA": "key id AKIAQW3RTY77ABCDEFGH in use",
    "aws secret": "aws_secret_access_key = wJalrQw3rTy77/K7MDENG/bPxRfiCYEXAMPLEKEYz",
    "ghp": "cloning with ghp_Qw3rTy77abcdefghijklmnopqrstuvwxyz12",
    "github_pat": "github_pat_11ABCDEFG0Qw3rTy77abcd_abcdefghijklmnopqrstuvwxyz",
    "glpat": "glpat-Qw3rTy77abcdefghijkl",
    "slack": "xoxb-123456789012-Qw3rTy77abcdef",
    "slack hook": "https://hooks.slack.com/services/T00000000/B00000000/Qw3rTy77abcdefghijklmnop",
    "jwt": "cookie was eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJrZHVtcCJ9.Qw3rTy77-b2YtdGVzdA there",
    "bearer alone": "curl -H 'X: Bearer Qw3rTy77abc'",
    "auth basic": "Authorization: Basic Qw3rTy77",
    "auth bearer": "authorization: Bearer Qw3rTy77",
    "auth token": "Authorization: Token Qw3rTy77",
    "auth digest": 'Authorization: Digest username="u", response="Qw3rTy77"',
    "auth aws4": "Authorization: AWS4-HMAC-SHA256 Credential=AK/2026, Signature=Qw3rTy77",
    "proxy auth": "Proxy-Authorization: Basic Qw3rTy77",
    "--token": "kubectl --token Qw3rTy77 get pods",
    "--password": "tool --password Qw3rTy77 run",
    "--password=": "tool --password=Qw3rTy77 run",
    "mysql -p": "mysql -u root -pQw3rTy77 db",
    "sshpass": "sshpass -p Qw3rTy77 ssh host",
    "curl -u": "curl -u kdump:Qw3rTy77 https://h/x",
    "url": "fetch http://user:Qw3rTy77@proxy/ failed",
    "url upper": "HTTPS://user:Qw3rTy77@h/x",
    "url token": "https://Qw3rTy77abcd@github.com/a/b",
    "url slash": "ftp://user:an/Qw3rTy77@h/x",
    "url at": "http://user:an@Qw3rTy77@proxy/",
    "signed url": "https://b.s3.amazonaws.com/x?X-Amz-Date=2026&X-Amz-Signature=Qw3rTy77",
    "sas url": "https://a.blob.core.windows.net/c?sv=2026&sig=Qw3rTy77abc%3D",
    "pem": "-----BEGIN PRIVATE KEY-----\nQw3rTy77\n-----END PRIVATE KEY-----",
    "pem cut": "-----BEGIN OPENSSH PRIVATE KEY-----\nQw3rTy77 and cut off",
    "pgp": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nQw3rTy77\n-----END PGP PRIVATE KEY BLOCK-----",
    "pem in a log": "[ 1] a: -----BEGIN RSA PRIVATE KEY-----\n[ 1] a: Qw3rTy77\n[ 1] a: -----END RSA PRIVATE KEY-----",
    "cookie": "Cookie: a=b; session=Qw3rTy77",
    "set-cookie": "Set-Cookie: sid=Qw3rTy77; Path=/",
    "audit cmd": 'type=USER_CMD msg=audit(1.2:3): cwd="/" cmd=2F62Qw3rTy77 terminal=pts',
    "audit execve": 'type=EXECVE msg=audit(1.2:3): argc=2 a0="x" a1="Qw3rTy77"',
    "sudo COMMAND": "sudo: bob : TTY=pts/0 ; COMMAND=/usr/bin/x Qw3rTy77",
    "dm-crypt": "0 417792 crypt aes-xts-plain64 :32:logon:Qw3rTy77 0 254:0 0",
    "snmp": "rocommunity Qw3rTy77 10.0.0.0/8",
    "shadow hash": "root:$6$saltsalt$Qw3rTy77abcdefghijklmnopqrstuvwxyz0123456789:19000:0:::",
    "htpasswd": "u:$2y$05$Qw3rTy77abcdefghijklmnopqrstuvwxyz01234567890123456789",
    "netrc": "machine h login u password Qw3rTy77",
    "env export": "export VAULT_TOKEN=hvs.Qw3rTy77abcdefghijklmnop",
    "age key": "AGE-SECRET-KEY-1QW3RTY77ABCDEFGHJKLMNPQRSTUVWXYZ023456789ABCDEFGHJKLMNPQRS",
    "google key": "AIzaQw3rTy77abcdefghijklmnopqrstuvwxyz1",
    "stripe": "sk_live_Qw3rTy77abcdefghijklmnop",
    "ppk": "Private-Lines: 1\nQw3rTy77\nPrivate-MAC: Qw3rTy77",
    "conn string": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Qw3rTy77abc==;",
    "xml": "<password>Qw3rTy77</password>",
    "xml attribute": '<user name="a" passwd="Qw3rTy77"/>',
    "ansible arg": "ansible_become_pass=Qw3rTy77",
    "keyctl": "keyctl add logon x:y Qw3rTy77 @s",
    "wpa key": "wpa_passphrase home Qw3rTy77",
    "luks hex": "rd.luks.key hex:Qw3rTy77",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_left_out(form: str) -> None:
    text = FORMS[form]
    assert SECRET.lower() in text.lower()
    told, counts = redact_text(text)
    assert SECRET.lower() not in told.lower()
    assert sum(counts.values()) >= 1
    assert redact_text(told) == (told, {})  # nothing is counted twice


def test_the_rest_of_a_text_stays() -> None:
    told, _ = redact_text('user=kdump password=x port=22\n{"token": "x", "host": "a"}\nhttp://u:p@host/path')
    assert told == (
        'user=kdump password=[left out] port=22\n{"token": [left out], "host": "a"}\nhttp://[left out]@host/path'
    )  # fmt: skip


@pytest.mark.parametrize("path", CONSOLES, ids=lambda path: path.stem)
def test_of_an_ordinary_log_only_kernel_command_lines_are_left_out(path: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    changed = [line for line in lines if redact_text(line)[0] != line]
    others = [line for line in changed if "ommand line" not in line and "BOOT_IMAGE=" not in line]
    assert others == []


# Pieces that the rules begin with, or repeat: many of them in a row would be read again and again by a careless rule.
PIECES = (
    "token", "password=", "password = ", "password: |\n a\n", "password:\n ", "<a", "<token ", "--", "-a-token ",
    "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "a://b:", "http://", "a.", "?sig=", "eyJ", "eyJaaaaaaaaa.", "$6$a$",
    "$2b$10$", "authorization: ", "cookie=", "basic aaaaaaa", "bearer ", "crypt a ", "mysql -u x", " -u a:",
    "keyctl add a:", "login a ", "wpa_passphrase ", "_key", "Command line", "cmd=", "Private-Lines:\n", " ", "\n",
    'password="', "token=\\", "AGE-SECRET-KEY-", "hooks.slack.com/services/", "dbPass",
)  # fmt: skip


def test_texts_that_are_made_to_take_long_do_not() -> None:
    """A rule of quadratic time takes a hundred times as long for ten times as much."""
    slow = []
    for head, piece, tail in itertools.product(("", "authorization:"), PIECES, ("", " ")):
        text = head + (piece + tail) * (8000 // len(piece + tail))
        began_s = time.process_time()
        redact_text(text)
        took_s = time.process_time() - began_s
        if took_s > 0.2:  # the rules take 0.01 s; \s*...\s* took 0.7 s
            slow.append(f"{took_s:.2f} s for {head + piece + tail!r}")
    assert slow == []


def test_the_kinds_that_are_looked_for_are_named() -> None:
    assert {"kernel command lines", "private keys", "tokens of known services"} <= set(kinds())


def test_kinds_that_evidence_needs_can_be_kept() -> None:
    assert set(COMMAND_LINES) < set(kinds())
    line = "BOOT_IMAGE=/vmlinuz crashkernel=256M"
    assert redact_text(line)[0] != line
    assert redact_text(f"{line}\nFTP_PASSWORD=x", keep=COMMAND_LINES) == (
        f"{line}\nFTP_PASSWORD=[left out]",
        {"passwords, keys and tokens": 1},
    )
