"""Who may call what: bearer tokens, tokens of an identity provider, and the port for management calls."""

import asyncio
import datetime
import http.server
import inspect
import json
import logging
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ganserve import AsyncClient, Client
from ganserve.cli import cli
from ganserve.commands.process import free_port
from ganserve.errors import GanserveError, PermissionDenied, SpecError, Unauthenticated
from ganserve.serving import jwks
from ganserve.serving.gates import Access, gates
from ganserve.serving.jwks import Provider, WebTokens
from ganserve.serving.methods import METHODS
from ganserve.serving.server import services
from ganserve.serving.tokens import Tokens, add, hash_of
from ganserve.testing.server import Serving, serving
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2

from .gate import gate_before

AUDIENCE, ISSUER = "ganserve.example", "https://identity.example"


def name_of(tokens: Tokens, token: str) -> str | None:
    found = asyncio.run(tokens.principal(token))
    return None if found is None else found.name


# Tokens of the operator's own.


def test_the_file_holds_hashes_and_is_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    made = CliRunner().invoke(cli, ["token", "alice", "--file", str(file), "--rows", "5/minute"])
    token = made.output.strip()
    assert (made.exit_code, token[:4], len(token)) == (0, "gan_", 47)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    assert json.loads(file.read_text()) == {
        "alice": {"sha256": [hash_of(token)], "manage": False, "calls": None, "rows": "5/minute", "streams": None}
    }


def test_a_name_may_have_several_tokens_and_old_ones_are_revoked(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    first, second = add(file, "alice"), add(file, "alice")
    tokens = Tokens(file)
    assert [name_of(tokens, one) for one in (first, second, first[:-1], "")] == ["alice", "alice", None, None]
    third = add(file, "alice", revoke=True)
    time.sleep(1.1)
    assert [name_of(tokens, one) for one in (first, second, third)] == [None, None, "alice"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "make the file with `ganserve token NAME"),
        ('{"a": {"sha256": ["00"]}}', r"\$\[...\]\.sha256\[0\]|regex"),
        ('{"a": {"sha256": []}}', "length >= 1"),
        ('{"a": {"sha256": ["%s"], "admin": true}}', "unknown field `admin`"),
        ('{"a": {"sha256": ["%s"], "rows": "many"}}', "'many' is no rate"),
        ('{"a": {"sha256": ["%s"]}, "b": {"sha256": ["%s"]}}', "b and a have a token in common"),
        ('{"../a": {"sha256": ["%s"]}}', "regex"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (file := tmp_path / "tokens.json").write_text(text.replace("%s", "0" * 64))
    with pytest.raises(GanserveError, match=told):
        Tokens(file)


def test_a_file_that_breaks_later_leaves_the_tokens_there_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens.json"
    token = add(file, "alice")
    tokens = Tokens(file)
    file.write_text("{")
    time.sleep(1.1)
    with caplog.at_level(logging.ERROR):
        assert name_of(tokens, token) == "alice"
    assert "keeping what was read before" in caplog.text


def test_wrong_names_and_rates_write_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    for wrong in ({"name": "../x"}, {"name": "x", "rows": "0/second"}):
        with pytest.raises(SpecError):
            add(file, **wrong)
    assert list(tmp_path.iterdir()) == []


# At the door.


class Door:
    """A server that asks for tokens, with a management port, and two tokens."""

    def __init__(self, server: Serving, infer: str, manage: str) -> None:
        self.public, self.infer, self.manage = server.address, infer, manage
        self.management = server.management
        self.server = server.server


@pytest.fixture(scope="module")
def door(echo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    infer, manage = add(file, "alice"), add(file, "operator", manage=True)
    with serving(echo, access=Access(token_file=file, management_port=0)) as server:
        yield Door(server, infer, manage)


def test_a_call_needs_a_token_that_is_known(door: Door) -> None:
    with Client(door.public, token=door.infer) as client:
        assert len(client.sample("echo", 2, task="sample", seed=1)) == 2
        assert len(list(client.sample_stream("echo", 2, task="sample", seed=1))) == 2
        client.wait_ready()
    for token, told in ((None, "asks for a token"), ("gan_wrong", "not known to this server")):
        with Client(door.public, token=token) as client:
            for call in (client.models, lambda: client.sample("echo", task="sample"), lambda: list(client.sample_stream("echo"))):  # fmt: skip
                with pytest.raises(Unauthenticated, match=told):
                    call()
            client.wait_ready()  # probes have no token

    async def awaited() -> None:
        async with AsyncClient(door.public, token=door.infer) as client:
            assert len(await client.models()) == 1
        async with AsyncClient(door.public) as client:
            with pytest.raises(Unauthenticated):
                await client.models()

    asyncio.run(awaited())
    assert door.server.metrics.registry.get_sample_value(
        "ganserve_rejected_requests_total", {"reason": "unauthenticated"}
    )


async def test_a_stream_ends_soon_after_its_token_is_revoked_and_no_other_does(echo: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    revoked, kept = add(file, "alice"), add(file, "bob")
    black = media_pb2.Image(format=media_pb2.IMAGE_FORMAT_RAW, width=8, height=4, channels=3, data=bytes(8 * 4 * 3))
    begin = pb.TranslateStreamRequest(
        settings=pb.TranslateRequest(model="echo", task="negative"), images={"image": black}
    )
    with (
        serving(echo, access=Access(token_file=file, management_port=0)) as server,
        gate_before(server, "synthesis") as gate,
    ):
        metric = server.server.metrics.registry.get_sample_value
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)

            def show(token: str) -> Any:
                return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 60}

            silent, idle, other = (stub.TranslateStream(**show(token)) for token in (revoked, revoked, kept))
            for call in (idle, other):
                await call.write(begin)
                assert (await call.read()).frame == 0
            request = pb.SampleRequest(model="echo", task="sample", count=40)
            busy = stub.SampleStream(pb.SampleStreamRequest(sample=request), **show(revoked))
            async with asyncio.timeout(20):
                while metric("ganserve_queue_rows", {"device": "cpu"}) != 8:
                    await asyncio.sleep(0.01)
            add(file, "alice", revoke=True)
            began = time.monotonic()
            for call in (silent, idle, busy):
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
                assert "the token was revoked while the call ran" in await call.details()
            assert time.monotonic() - began < 10
            assert metric("ganserve_queue_rows", {"device": "cpu"}) == 0
            assert metric("ganserve_in_flight_requests") == 1
            gate.open.set()
            await other.write(pb.TranslateStreamRequest(images={"image": black}))
            assert (await other.read()).frame == 1
            await other.done_writing()
            assert await other.code() is grpc.StatusCode.OK


def test_the_command_line_shows_a_token_and_says_where_one_is_missing(door: Door) -> None:
    shown = CliRunner().invoke(cli, ["models", "--server", door.public], env={"GANSERVE_TOKEN": door.infer})
    assert (shown.exit_code, "echo" in shown.output) == (0, True)
    missing = CliRunner().invoke(cli, ["models", "--server", door.public])
    assert (missing.exit_code, "GANSERVE_TOKEN, or --token" in missing.output) == (1, True)


def test_a_token_goes_in_plain_text_to_this_machine_only() -> None:
    for address in ("gpu-box:8001", "10.0.0.7:8001", "dns:///gpu-box:8001", "[2001:db8::1]:8001"):
        with pytest.raises(ValueError, match="plain text"):
            Client(address, token="gan_x")
        Client(address, token="gan_x", tls=False).close()
    for address in ("localhost:8001", "127.0.0.1:8001", "[::1]:8001", "dns:///localhost:8001", "ipv4:127.0.0.1:8001"):
        Client(address, token="gan_x").close()


# Management.


def test_management_calls_are_refused_on_the_servers_port_and_answered_on_their_own(door: Door) -> None:
    with Client(door.public, token=door.manage) as client:
        with pytest.raises(PermissionDenied, match=r"the management port on 127\.0\.0\.1 answers it"):
            client.load_model("echo")
        assert client.models(), "what there is may still be read"
    with Client(door.management, token=door.manage) as client:
        assert client.load_model("echo")
        with pytest.raises(PermissionDenied, match="on the server's own port"):
            client.sample("echo", task="sample")
    may_not = pytest.raises(PermissionDenied, match="'alice' may not manage")
    with Client(door.management, token=door.infer) as client, may_not:
        client.load_model("echo")
    with Client(door.management) as client, pytest.raises(Unauthenticated):
        client.load_model("echo")


def test_without_tokens_whoever_is_on_this_machine_manages_and_nobody_else(echo: Path) -> None:
    with serving(echo, access=Access(management_port=0)) as server:
        with Client(server.management) as client:
            assert client.load_model("echo")
        with Client(server.address) as client, pytest.raises(PermissionDenied):
            client.load_model("echo")
    with serving(echo, access=Access()) as server, Client(server.address) as client:
        assert server.server.management_port is None
        with pytest.raises(PermissionDenied, match="set --management-port"):
            client.load_model("echo")


def test_one_port_for_all_needs_tokens(echo: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(GanserveError, match="that needs tokens"),
        serving(echo, port=port, access=Access(management_port=port)),
    ):
        pass
    manage, infer = add(tmp_path / "tokens", "boss", manage=True), add(tmp_path / "tokens", "alice")
    access = Access(token_file=tmp_path / "tokens", management_port=port)
    with serving(echo, port=port, access=access) as server:
        with Client(f"127.0.0.1:{port}", token=manage) as client:
            assert client.load_model("echo")
            assert client.sample("echo", task="sample")
        with (
            Client(f"127.0.0.1:{port}", token=infer) as client,
            pytest.raises(PermissionDenied, match="may not manage"),
        ):
            client.load_model("echo")
        assert server.server.management_port is None


def test_a_method_that_is_not_classified_is_refused(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: kind for name, kind in METHODS.items() if not name.endswith("Models/List")}
    monkeypatch.setattr("ganserve.serving.access.METHODS", known)
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(PermissionDenied, match=r"/ganserve\.v1\.Models/List is not among the methods"):
            client.models()
        assert client.model("echo")


def test_every_method_of_every_service_is_classified_and_no_other() -> None:
    """A new rpc gets its line in ganserve/serving/methods.py."""
    offered: set[str] = set()

    class Recorder:
        def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
            for handler in handlers:
                offered.update(handler._method_handlers)

        def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
            assert {f"/{service}/{name}" for name in handlers} <= offered

    class AnyServicer:
        def __getattr__(self, name: str) -> None:
            return None

    servicers: list[Any] = [AnyServicer() for _ in inspect.signature(services).parameters]
    for add_service in services(*servicers):
        add_service(Recorder())  # type: ignore[arg-type]
    assert offered == set(METHODS)


def test_a_server_that_others_reach_says_so_if_it_asks_nobody(
    echo: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    add(tmp_path / "tokens", "alice")
    with caplog.at_level(logging.WARNING):
        asyncio.run(gates(Access(token_file=tmp_path / "tokens"), "0.0.0.0", 8001))
        asyncio.run(gates(Access(), "127.0.0.1", 8001))
        assert not caplog.records
        asyncio.run(gates(Access(), "0.0.0.0", 8001))
    assert "anyone who reaches 0.0.0.0 may call" in caplog.text


# An identity provider.

HOUR = datetime.timedelta(hours=1)


class Identity:
    """An identity provider on this machine: its keys over HTTP, and tokens that it signs."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"first": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.fetched = 0
        outer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetched += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(outer.published())

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.provider = Provider(keys=self.url, audience=AUDIENCE, issuer=ISSUER)

    def published(self) -> bytes:
        keys = []
        for name, key in self.keys.items():
            kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
            keys.append({**kind.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"})
        return json.dumps({"keys": keys}).encode()

    def token(self, key: str = "first", **claims: Any) -> str:
        now = datetime.datetime.now(datetime.UTC)
        told = {"sub": "bob", "aud": AUDIENCE, "iss": ISSUER, "exp": now + HOUR, **claims}
        algorithm = "RS256" if isinstance(self.keys[key], rsa.RSAPrivateKey) else "ES256"
        kept = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(kept, self.keys[key], algorithm=algorithm, headers={"kid": key})


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    found = Identity()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_providers_tokens_are_believed_on_a_server(echo: Path, identity: Identity) -> None:
    with serving(echo, access=Access(provider=identity.provider, management_port=0)) as server:
        with Client(server.address, token=identity.token()) as client:
            assert client.models()
        not_valid = pytest.raises(Unauthenticated, match="the token is not valid: Audience")
        with Client(server.address, token=identity.token(aud="another")) as client, not_valid:
            client.models()
        with Client(server.address, token="gan_something") as client, pytest.raises(Unauthenticated, match="not known"):
            client.models()


def test_what_is_not_the_providers_or_not_for_us_is_refused(identity: Identity) -> None:
    past = datetime.datetime.now(datetime.UTC) - HOUR
    stranger = Identity()
    stranger.server.server_close()
    unsigned = jwt.encode(
        {"sub": "bob", "aud": AUDIENCE, "iss": ISSUER}, "", algorithm="none", headers={"kid": "first"}
    )
    confused = jwt.encode(
        {"sub": "bob", "aud": AUDIENCE, "iss": ISSUER, "exp": 2**33},
        b"the key that is published, taken for a shared one" + identity.published(),
        algorithm="HS256",
        headers={"kid": "first"},
    )
    wrong = {
        "expired": identity.token(exp=past),
        "without an end": identity.token(exp=None),
        "without a subject": identity.token(sub=None),
        "for another": identity.token(aud="another"),
        "from another": identity.token(iss="another"),
        "signed by another": stranger.token(),
        "not yet": identity.token(nbf=datetime.datetime.now(datetime.UTC) + HOUR),
        "unsigned": unsigned,
        "signed with the public key": confused,
        "no token": "a.b.c",
    }

    async def ask() -> None:
        web = WebTokens(identity.provider)
        for what, token in wrong.items():
            with pytest.raises(Unauthenticated):
                pytest.fail(f"{what}: {await web.principal(token)}")
        assert await web.principal("gan_of_the_operator") is None
        assert (found := await web.principal(identity.token())) is not None
        assert (found.name, found.manages) == ("jwt:bob", False)
        manager = await web.principal(identity.token(scope=f"openid {jwks.MANAGE}"))
        assert manager is not None
        assert manager.manages

    asyncio.run(ask())


def test_keys_turn_over_and_strangers_cause_few_fetches(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "PAUSE", 0.2)

    async def ask() -> None:
        web = WebTokens(identity.provider)
        await web.start()
        await asyncio.sleep(0.3)
        before = identity.fetched
        identity.keys["second"] = ec.generate_private_key(ec.SECP256R1())
        assert await web.principal(identity.token("second"))
        assert identity.fetched == before + 1
        for _ in range(20):
            with pytest.raises(Unauthenticated, match="key 'unknown', which its provider does not publish"):
                await web.principal(jwt.encode({}, "x" * 32, headers={"kid": "unknown"}))
        assert identity.fetched <= before + 2
        withdrawn = identity.token("second")
        del identity.keys["second"]
        await asyncio.sleep(0.3)
        monkeypatch.setattr(jwks, "LIFETIME", 0.0)
        assert await web.principal(withdrawn), "served while the keys are fetched"
        assert web._refreshing is not None
        await web._refreshing
        monkeypatch.setattr(jwks, "LIFETIME", 300.0)
        with pytest.raises(Unauthenticated):
            await web.principal(withdrawn)

    asyncio.run(ask())


def test_a_provider_that_does_not_answer_leaves_the_keys_there_are(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "PAUSE", 0.0)
    (file := tmp_path / "keys.json").write_bytes(identity.published())

    async def ask() -> None:
        web = WebTokens(Provider(keys=str(file), audience=AUDIENCE, issuer=ISSUER))
        await web.start()
        file.unlink()
        await web.start()
        assert await web.principal(identity.token())

    asyncio.run(ask())
    assert "keeping the 1 there are" in caplog.text


@pytest.mark.parametrize("keys", ["http://identity.example/keys", "ftp://identity.example/keys", "/nowhere/keys.json"])
def test_keys_come_from_a_file_or_over_https(keys: str) -> None:
    with pytest.raises(GanserveError, match=r"https://|there is no such file"):
        WebTokens(Provider(keys=keys, audience=AUDIENCE, issuer=ISSUER))


def test_a_providers_options_go_together(echo: Path) -> None:
    done = CliRunner().invoke(cli, ["serve", str(echo), "--jwt-keys", "keys.json"])
    assert (done.exit_code, "need all of --jwt-keys, --jwt-audience and --jwt-issuer" in done.output) == (2, True)
