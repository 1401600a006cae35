"""A server with OpenAI's chat completions on loopback, in a process of its own that can be killed.

Its answers follow from the request alone: whatever was killed in between, the same question gets the same answer. Of
ten documents one gets an answer that is malformed in one of several ways; of five, one fails once in passing. Every
request that is answered is written down.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Self
from urllib.request import urlopen

NUMBER = re.compile(r"document number (\w+)")
COUNT = re.compile(r"Write (\d+) ")
EVIL = '=HYPERLINK("http://x") \x00\x1b[31m\u200bshop \ud800 number'
MALFORMED = ("empty", "prose", "few", "many", "copy", "refusal", "huge", "types")


def number_of(prompt: str) -> int:
    return int(NUMBER.search(prompt)[1], 36)


def is_malformed(number: int) -> str:
    return MALFORMED[number // 10 % len(MALFORMED)] if number % 10 == 7 else ""


def queries(number: int, count: int) -> list[str]:
    return [f"{EVIL if number == 3 else 'where is'} {word(number)} question{place}" for place in range(count)]


def word(number: int) -> str:
    """A word that only this document has."""
    return f"thing{number}thing"


def content(prompt: str) -> str:
    number, count = number_of(prompt), int((COUNT.search(prompt) or [0, 1])[1])
    good, document = queries(number, count), prompt.partition("Document:\n")[2].strip()
    return {
        "": json.dumps(good),
        "empty": " \n",
        "prose": "Here are some queries: " + ", ".join(good),
        "few": f"```json\n{json.dumps(good[:1])}\n```",
        "many": json.dumps({"queries": [*good, "one more about " + word(number)]}),
        "copy": json.dumps([document, good[0], good[0].upper()]),
        "refusal": "I'm sorry, but I can't help with that.",
        "huge": json.dumps(["a" * 1_000_000]),
        "types": json.dumps([None, {"a": 1}, good[0]]),
    }[is_malformed(number)]


def judgment(prompt: str) -> str:
    """Yes where the query names the thing of the document, and now and then something else."""
    query, _, document = prompt.partition("\n\nDocument:\n")
    asked = re.search(r"number (\w+)", query)
    if asked and int(asked[1]) % 7 == 3:
        return "It depends."
    return "Yes." if asked and document.split()[0] == "small" else "no"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    seen: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()
    log = ""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        prompt = body["messages"][0]["content"]
        with self.lock:
            self.seen[prompt] += 1
            first = self.seen[prompt] == 1
        if prompt.startswith("Does the document"):
            self.reply(200, completion(judgment(prompt)))
            return
        number = number_of(prompt)
        if first and number % 10 == 5:
            self.reply(429, b'{"error": "slow down"}', {"Retry-After": "0.01"})
        elif first and number % 10 == 6:
            self.reply(500, b"<html>")
        else:
            time.sleep(0.002)
            with self.lock, Path(self.log).open("a", encoding="utf-8") as log:
                log.write(json.dumps([number, body["seed"], self.headers.get("Authorization")]) + "\n")
            self.reply(200, completion(content(prompt)))

    def do_GET(self) -> None:
        self.reply(200, b"ready")

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()


class ChatServer:
    """The server as a process; `kill` ends it as by SIGKILL, `start` brings it back on the same port."""

    def __init__(self, log: Path) -> None:
        self.log, self.port = log, 0
        self.log.touch()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        command = [sys.executable, str(Path(__file__).resolve()), str(self.port), str(self.log)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        with urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
            assert answer.read() == b"ready"
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def requests(self) -> list[tuple[int, int, str | None]]:
        """Number of the document, seed and authorisation of every request that was answered."""
        return [tuple(json.loads(line)) for line in self.log.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    Handler.log = sys.argv[2]
    ThreadingHTTPServer.request_queue_size = 64
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
