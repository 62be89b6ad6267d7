"""Valid messages made strange: the mutations under the property tests and the fuzzer."""

from __future__ import annotations

from random import Random

NASTY = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x80",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"0",
    b"+",
    b"_",
    b"%",
    b"#",
    b"\r\n ",
    b"Content-Length: 3\r\n",
    b"content-length:0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Host: other\r\n",
    b"Connection: close\r\n",
    b"Connection: content-length, x\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"x-user-id: u\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1 ",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"http://a:1",
)


def mutated(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` after one to four random changes. others: messages to take pieces from."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.randint(1, 8))
        match random.randrange(8):
            case 0 | 1:
                data = data[:at] + random.choice(NASTY) + data[at:]
            case 2:
                data = data[:at] + data[to:]
            case 3:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 4:
                data = data[:at] + data[at:to].swapcase() + data[to:]
            case 5:
                lines = data.split(b"\r\n")
                lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
                data = b"\r\n".join(lines)
            case 6:
                other = random.choice(others)
                begin = random.randrange(len(other) + 1)
                data = data[:at] + other[begin : begin + random.randint(1, 40)] + data[at:]
            case _:
                lines = data.split(b"\r\n")
                line = random.randrange(len(lines))
                lines[line] = random.choice((b"", b" ", lines[line] + b" ", b" " + lines[line], lines[line].lower()))
                data = b"\r\n".join(lines)
    return data


def cut(random: Random, data: bytes) -> list[bytes]:
    """`data` in random pieces."""
    pieces = []
    while data:
        size = random.choice((1, 2, random.randint(1, 40), len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
