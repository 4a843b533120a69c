"""Signed URLs where no key lies beside the client: Google's service accounts, and Azure's logins by token."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pathapi import AzureBlobClient, GSClient
from pathapi.exceptions import (
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    MissingCredentialsError,
)
from tests.harness import azure_servers
from tests.harness.azure_servers import AzureServer
from tests.harness.servers import GCSServer
from tests.pathapi.conftest import MakeGSClient


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def as_pem(key: rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


# --- Google -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def account_file(private_key: rsa.RSAPrivateKey, tmp_path: Path) -> Path:
    """The file of a service account, as Google gives it out; the account exists nowhere."""
    facts = {
        "type": "service_account",
        "client_email": "signer@project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": as_pem(private_key).decode(),
        "token_uri": "http://127.0.0.1:1/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("key", ["plain.txt", "dir/a b.txt", "ü#1?x=50%2F", "a+b;c'()~"])
def test_a_url_of_google_is_signed_by_the_service_accounts_key(
    make_gs: MakeGSClient,
    gcs: GCSServer,
    gcs_bucket: str,
    account_file: Path,
    private_key: rsa.RSAPrivateKey,
    key: str,
) -> None:
    gcs.client().bucket(gcs_bucket).blob(key).upload_from_string(key.encode())
    client = make_gs(application_credentials=account_file)
    path = client.GSPath(f"gs://{gcs_bucket}/{key}")
    url = path.as_url(presign=True, expire_seconds=60)
    assert url.startswith(f"{path.as_url()}?")
    require_signature(url, private_key.public_key())
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Host": "storage.googleapis.com"}), timeout=1_000
    ) as answer:
        assert answer.read() == key.encode()


def require_signature(url: str, key: rsa.RSAPublicKey) -> None:
    """Raise unless *url* is signed as Google documents version 4, by *key*."""
    parts = urlsplit(url)
    query = {name: value for name, (value,) in parse_qs(parts.query).items()}
    signature = bytes.fromhex(query.pop("X-Goog-Signature"))
    assert query["X-Goog-Expires"] == "60"
    asked = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
    request = f"GET\n{parts.path}\n{asked}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = query["X-Goog-Credential"].partition("/")[2]
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
    key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_a_url_at_googles_own_host_is_signed_for_it(account_file: Path, private_key: rsa.RSAPrivateKey) -> None:
    url = GSClient(account_file).GSPath("gs://bucket/a b").as_url(presign=True, expire_seconds=60)
    assert url.startswith("https://storage.googleapis.com/bucket/a%20b?")
    require_signature(url, private_key.public_key())


def _token() -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials("SECRET-TOKEN")


@pytest.mark.parametrize("make", [lambda: None, _token], ids=["anonymous", "a token"])
def test_what_has_no_private_key_signs_nothing_of_googles_and_says_what_does(make_gs: MakeGSClient, make: Any) -> None:
    path = make_gs(credentials=make()).GSPath("gs://bucket/key")
    with pytest.raises(MissingCredentialsError, match=r"gs://bucket/key: .*application_credentials=") as raised:
        path.as_url(presign=True)
    assert "SECRET-TOKEN" not in str(raised.value)


# --- Azure ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(private_key: rsa.RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a certificate for 127.0.0.1, and of its key."""
    directory = tmp_path_factory.mktemp("certificate")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(as_pem(private_key))
    return public, private


@pytest.fixture(scope="module")
def tls_azurite(certificate: tuple[Path, Path]) -> Iterator[AzureServer]:
    """An Azurite that takes tokens, and for that speaks TLS."""
    public, private = certificate
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(public))
        try:
            with azure_servers.azurite("--oauth", "basic", "--cert", str(public), "--key", str(private)) as server:
                yield server
        except azure_servers.NoAzuriteError as error:
            pytest.skip(str(error))


@dataclass
class Login:
    """A token credential, as those of azure-identity are; Azurite looks at the claims and at no signature."""

    seconds: int = 3600

    def get_token(self, *scopes: str, **_: Any) -> Any:
        from azure.core.credentials import AccessToken

        now = int(time.time())
        claims = {"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/1/", "oid": "1", "tid": "2"}
        times = {"iat": now - 60, "nbf": now - 60, "exp": now + self.seconds}
        pieces = ({"alg": "HS256", "typ": "JWT"}, {**claims, **times})
        head, body = (base64.urlsafe_b64encode(json.dumps(piece).encode()).decode().rstrip("=") for piece in pieces)
        return AccessToken(f"{head}.{body}.c2lnbmF0dXJl", now + 3600)


@pytest.fixture
def token_client(tls_azurite: AzureServer, tmp_path: Path) -> Iterator[AzureBlobClient]:
    client = AzureBlobClient(tls_azurite.account_url(), Login(), local_cache_dir=tmp_path / "store")
    yield client
    client.cache.close()
    client.connection.close()


def test_a_login_by_token_signs_urls_of_azure_by_a_key_that_it_asks_for(
    tls_azurite: AzureServer, token_client: AzureBlobClient, certificate: tuple[Path, Path]
) -> None:
    container = tls_azurite.new_container()
    path = token_client.AzureBlobPath(f"az://{container}/dir/a b")
    path.write_bytes(b"by token")
    trust = ssl.create_default_context(cafile=certificate[0])
    with urllib.request.urlopen(path.as_url(presign=True, expire_seconds=60), timeout=1_000, context=trust) as answer:
        assert answer.read() == b"by token"


def test_a_key_that_is_asked_for_signs_for_a_week_at_most(token_client: AzureBlobClient) -> None:
    with pytest.raises(InvalidConfigurationException, match="604800"):
        token_client.AzureBlobPath("az://container/blob").as_url(presign=True, expire_seconds=604_801)


def test_a_login_that_azure_refuses_is_told_as_such(tls_azurite: AzureServer, tmp_path: Path) -> None:
    client = AzureBlobClient(tls_azurite.account_url(), Login(seconds=-1), local_cache_dir=tmp_path / "store")
    with pytest.raises(CloudPathPermissionError, match="az://container/blob"):
        client.AzureBlobPath("az://container/blob").as_url(presign=True)
    client.connection.close()


def test_no_key_is_asked_for_where_nobody_answers(tmp_path: Path) -> None:
    client = AzureBlobClient("https://127.0.0.1:1/account", Login(), local_cache_dir=tmp_path / "store")
    with pytest.raises(CloudUnavailableError, match="az://container/blob"):
        client.AzureBlobPath("az://container/blob").as_url(presign=True)
    assert client.AzureBlobPath("az://container/blob").as_url() == "https://127.0.0.1:1/account/container/blob"
    client.connection.close()
