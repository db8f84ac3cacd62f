"""A broker's URL: what it means, what it never shows, and what a wrong one is told."""

from pathlib import Path

import pytest

from mhfl_mq.errors import ConfigError
from mhfl_mq.transport.address import BrokerAddress


def test_a_full_url_is_read() -> None:
    address = BrokerAddress.parse("mqtts://device-1:p%40ss@broker.plant:9999?ca=a&cert=b&key=c&max_packet=98304")
    assert address == BrokerAddress(
        host="broker.plant",
        port=9999,
        tls=True,
        username="device-1",
        password="p@ss",
        ca_file="a",
        cert_file="b",
        key_file="c",
        max_packet=98304,
    )


@pytest.mark.parametrize(
    ("url", "port", "tls", "websocket", "path"),
    [
        ("mqtt://h", 1883, False, False, "/mqtt"),
        ("mqtts://h/", 8883, True, False, "/mqtt"),
        ("ws://h", 80, False, True, "/mqtt"),
        ("wss://h:444/broker", 444, True, True, "/broker"),
        (" mqtt://[::1]:1 ", 1, False, False, "/mqtt"),
    ],
)
def test_each_scheme_has_its_defaults(url: str, port: int, tls: bool, websocket: bool, path: str) -> None:
    address = BrokerAddress.parse(url)
    assert (address.port, address.tls, address.websocket, address.path) == (port, tls, websocket, path)


@pytest.mark.parametrize(("text", "protocol"), [("3.1.1", 4), ("4", 4), ("5", 5)])
def test_a_protocol_can_be_asked_for(text: str, protocol: int) -> None:
    assert BrokerAddress.parse(f"mqtt://h?protocol={text}").protocol == protocol


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("localhost:1883", "no scheme"),
        ("http://u:hidden@h", "unknown scheme 'http'"),
        ("mqtt://", "no host"),
        ("mqtt://u:hidden@h:99999", "not a number from 1 to 65535"),
        ("mqtt://u:hidden@h:x", "not a number"),
        ("mqtt://h:0", "port 0"),
        ("mqtt://u:hidden@h/topic", "takes no path"),
        ("mqtt://h?ca=x", "needs TLS"),
        ("mqtt://u:hidden@h?colour=red", "unknown option 'colour'"),
        ("mqtt://h?max_packet=1", "max_packet '1'"),
        ("mqtt://h?max_packet=²", "max_packet"),
        ("mqtt://h?protocol=3", "unknown protocol '3'"),
        ("mqtt://h?password_file=/no/such/file", "cannot read the password file"),
    ],
)
def test_a_bad_url_says_what_to_do_and_hides_the_password(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerAddress.parse(url)
    assert told in str(caught.value)
    assert caught.value.remedy
    assert "hidden" not in str(caught.value)


def test_neither_text_form_shows_the_password() -> None:
    address = BrokerAddress.parse("wss://user:hidden@h:1/x")
    assert str(address) == "wss://h:1/x"
    assert "hidden" not in repr(address)
    assert str(BrokerAddress.parse("mqtt://u:hidden@[::1]")) == "mqtt://[::1]:1883"


def test_a_password_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    address = BrokerAddress.parse(f"mqtt://user@h?password_file={tmp_path}/secret")
    assert address.password == "from the file"


def test_certificate_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    assert BrokerAddress.parse("mqtt://h").tls_context() is None
    with pytest.raises(ConfigError, match=r"authority .*missing\.pem"):
        BrokerAddress.parse(f"mqtts://h?ca={tmp_path}/missing.pem").tls_context()
    with pytest.raises(ConfigError, match=r"certificate .*bad\.pem and its key"):
        BrokerAddress.parse(f"mqtts://h?cert={bad}&key={bad}").tls_context()
