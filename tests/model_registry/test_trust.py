from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from model_registry import trust
from model_registry.errors import UnsupportedModel
from model_registry.trust import TrustError

DIGEST = hashlib.sha256(b"a model").hexdigest()


def test_nothing_is_trusted_until_somebody_says_so(monkeypatch: pytest.MonkeyPatch):
    assert not trust.is_trusted(DIGEST) and not trust.path().exists()
    with pytest.raises(UnsupportedModel, match=r"a \.pt2 file can run code .* tiler models trust"):
        trust.require(b"a model", "a .pt2 file")
    entry = trust.trust(DIGEST, "cover.pt2", who="ann")
    assert (entry.name, entry.who) == ("cover.pt2", "ann") and entry.when.endswith("+00:00")
    trust.require(b"a model", "a .pt2 file")
    assert trust.is_trusted(DIGEST.upper()) and trust.is_trusted("1220" + DIGEST)
    assert trust.listed() == {DIGEST: entry}
    assert stat.S_IMODE(trust.path().stat().st_mode) == 0o600
    assert trust.distrust(DIGEST) and not trust.distrust(DIGEST) and not trust.is_trusted(DIGEST)
    assert {p.name for p in trust.path().parent.iterdir()} == {"trust.json", "trust.json.lock"}


def test_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("TILER_TRUST")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert trust.path() == tmp_path / "config" / "titiler-inference" / "trust.json"
    trust.trust(DIGEST)
    assert trust.is_trusted(DIGEST)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert trust.path() == tmp_path / "home" / ".config" / "titiler-inference" / "trust.json"
    assert not trust.is_trusted(DIGEST)


@pytest.mark.parametrize("text", ["", "abc", "z" * 64, "1220" + "0" * 63, "../" + "0" * 61])
def test_what_is_no_digest_is_refused(text: str):
    for function in (trust.is_trusted, trust.trust, trust.distrust):
        with pytest.raises(TrustError, match="not a sha256 digest"):
            function(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"abc": {}}', json.dumps({DIGEST: {"name": "x"}}), json.dumps({DIGEST: 1}), "[" * 100000]
)
def test_a_broken_list_trusts_nothing(text: str):
    trust.path().write_text(text)
    with pytest.raises(TrustError):
        trust.is_trusted(DIGEST)
    with pytest.raises(TrustError):
        trust.trust(DIGEST)
    assert trust.path().read_text() == text


def test_a_list_that_others_may_write_to_is_not_believed():
    trust.trust(DIGEST)
    trust.path().chmod(0o666)
    with pytest.raises(TrustError, match="others may write"):
        trust.is_trusted(DIGEST)
    trust.path().chmod(0o644)
    assert trust.is_trusted(DIGEST)
    if os.geteuid() == 0:
        os.chown(trust.path(), 12345, 12345)
        with pytest.raises(TrustError, match="another user"):
            trust.is_trusted(DIGEST)


def test_a_fifo_does_not_hang_it():
    os.mkfifo(trust.path())
    with pytest.raises(TrustError, match="regular file"):
        trust.is_trusted(DIGEST)


def test_two_at_once_lose_nothing():
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(20)]
    threads = [threading.Thread(target=trust.trust, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(trust.listed()) == set(digests)
