"""TLS and authentication sections of a SLEDServer. Holds the shape and its rules; keys are made in
`sled_operator.certificates`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import ObjectName, Rule, Spec


class IssuerRef(Spec):
    """The cert-manager issuer that signs the certificate."""

    name: ObjectName
    """Its name."""
    kind: Literal["Issuer", "ClusterIssuer"] = "Issuer"
    """Its kind."""


class Tls(Spec):
    """Encryption between devices and verifier."""

    rules = (
        Rule(
            "self.mode != 'Secret' || has(self.secretName)",
            "tls mode Secret needs secretName",
            lambda self: self.mode != "Secret" or self.secret_name is not None,
        ),
        Rule(
            "(self.mode == 'CertManager') == has(self.issuerRef)",
            "issuerRef belongs to tls mode CertManager, which needs it, and to no other",
            lambda self: (self.mode == "CertManager") == (self.issuer_ref is not None),
        ),
    )

    mode: Literal["SelfSigned", "CertManager", "Secret", "Disabled"] = "SelfSigned"
    """SelfSigned: the operator keeps a CA for this server. CertManager: a Certificate is requested.
    Secret: yours. Disabled: plain text, for networks that encrypt themselves."""
    secret_name: ObjectName | None = None
    """Secret with tls.crt, tls.key and ca.crt, for mode Secret."""
    issuer_ref: IssuerRef | None = None
    """Issuer, for mode CertManager."""
    extra_names: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=253)], ...],
        Field(max_length=32),
    ] = ()
    """Further DNS names or IP addresses in the certificate, such as the public address of a
    LoadBalancer."""
    certificate_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """How long a certificate is valid; it is renewed after two thirds of that."""


class Auth(Spec):
    """How devices prove who they are."""

    rules = (
        Rule(
            "self.mode == 'DeviceTokens' || !has(self.secretName)",
            "secretName belongs to auth mode DeviceTokens",
            lambda self: self.mode == "DeviceTokens" or self.secret_name is None,
        ),
    )

    mode: Literal["DeviceTokens", "None"] = "DeviceTokens"
    """DeviceTokens: a bearer token per device or per fleet. None: whoever reaches the port may
    draft."""
    secret_name: ObjectName | None = None
    """Secret with the keys `tokens`, lines of `device-id:token` or `*:token`, and `token`, the one
    that drafters of this cluster present; omitted lets the operator make one."""
