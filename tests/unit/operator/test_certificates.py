from __future__ import annotations

import datetime

import pytest
from cryptography import x509

from sled_operator import certificates, tokens

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
NAMES = ["big", "big.fleet.svc", "*.big-replicas.fleet.svc", "192.0.2.1"]
DAY = datetime.timedelta(days=1)


def test_a_serving_certificate_is_signed_by_its_ca_and_carries_the_names() -> None:
    ca = certificates.make_ca("big", NOW)
    serving = certificates.make_serving(ca, NAMES, 90, NOW)
    loaded = x509.load_pem_x509_certificate(serving.certificate)
    loaded.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
    assert certificates.names_of(serving.certificate) == set(NAMES)
    assert certificates.fits(serving.certificate, ca.certificate, NAMES, NOW)


def test_it_is_renewed_after_two_thirds_of_its_life() -> None:
    ca = certificates.make_ca("big", NOW)
    serving = certificates.make_serving(ca, NAMES, 90, NOW).certificate
    assert certificates.fits(serving, ca.certificate, NAMES, NOW + 59 * DAY)
    assert not certificates.fits(serving, ca.certificate, NAMES, NOW + 61 * DAY)


def test_other_names_another_ca_and_damage_do_not_fit() -> None:
    ca = certificates.make_ca("big", NOW)
    serving = certificates.make_serving(ca, NAMES, 90, NOW).certificate
    other = certificates.make_ca("big", NOW).certificate
    assert not certificates.fits(serving, ca.certificate, [*NAMES, "new"], NOW)
    assert not certificates.fits(serving, other, NAMES, NOW)
    assert not certificates.fits(b"broken", ca.certificate, NAMES, NOW)
    assert not certificates.fits(serving, b"broken", NAMES, NOW)


def test_a_damaged_ca_is_named() -> None:
    with pytest.raises(certificates.UnreadableCertificate, match="CA"):
        certificates.make_serving(certificates.KeyPair(b"x", b"y"), NAMES, 90, NOW)


def test_keys_never_show() -> None:
    pair = certificates.make_ca("big", NOW)
    assert "PRIVATE" not in repr(pair)


def test_tokens_are_unique_and_usable() -> None:
    first, second = tokens.make(), tokens.make()
    assert first != second
    assert tokens.usable(first)
    assert first["tokens"] == b"*:" + first["token"] + b"\n"
    assert not tokens.usable({"tokens": b"", "token": b"x"})
    assert not tokens.usable({})
