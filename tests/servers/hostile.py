"""A server that answers badly, over raw sockets: `python hostile.py BEHAVIOUR` prints its port and answers every
completion so, after it has been good for the first `GOOD` of them. Bad replies are its only subject: what a
good server does is tested with servers that others wrote.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time

GOOD_ID, GOOD_VALUE = 5, -0.5


def choice(**more: object) -> dict[str, object]:
    """A whole choice of a server as able as vLLM, with something replaced."""
    base = {
        "index": 0,
        "text": "x",
        "token_ids": [GOOD_ID],
        "logprobs": {"token_logprobs": [GOOD_VALUE]},
        "finish_reason": "length",
        "stop_reason": None,
    }
    return base | more


def body(**more: object) -> bytes:
    return json.dumps({"choices": [choice(**more)]}).encode()


def answer(content: bytes, status: str = "200 OK", kind: str = "application/json", length: int = -1) -> bytes:
    size = len(content) if length < 0 else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def error(status: str, words: object) -> bytes:
    return answer(json.dumps(words).encode(), status)


ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202eevil\r\nsecond line\x00\x9b31m"
LORA = "LoRA rank 64 is greater than max_lora_rank 32"
#: name -> (what goes over the wire, words that the sentence must have)
REPLIES: dict[str, tuple[bytes, str]] = {
    "no_choices": (answer(b'{"choices": []}'), "choices"),
    "no_choices_key": (answer(b'{"object": "text_completion"}'), "choices"),
    "choices_null": (answer(b'{"choices": null}'), "choices"),
    "choices_a_map": (answer(b'{"choices": {"0": {}}}'), "choices"),
    "choice_a_number": (answer(b'{"choices": [7]}'), "choices.0"),
    "a_list": (answer(b"[]"), "object"),
    "a_number": (answer(b"17"), "object"),
    "null": (answer(b"null"), "object"),
    "html": (answer(b"<html><b>Bad gateway</b></html>", kind="text/html"), "Bad gateway"),
    "error_with_200": (error("200 OK", {"error": {"message": "the engine is dead"}}), "the engine is dead"),
    "empty": (answer(b""), "JSON"),
    "no_content": (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "JSON"),
    "cut_body": (answer(body(), length=5000), ""),
    "cut_json": (answer(body()[:-9]), "JSON"),
    "bad_status_line": (b"HTTP/9.9 yes\r\n\r\n", ""),
    "no_status_line": (b"hello there\r\n\r\n", ""),
    "nothing": (b"", ""),
    "header_without_end": (b"HTTP/1.1 200 OK\r\nX: y", ""),
    "bad_chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", ""),
    "bad_gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", ""),
    "bad_length": (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", ""),
    "deep_json": (answer(b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "JSON"),
    "deep_error": (answer(b"[" * 100_000, "500 Internal Server Error"), "HTTP 500"),
    "latin": (answer(b'{"choices": [{"text": "\xe9\xff", "finish_reason": "stop"}]}'), "JSON"),
    "lone_surrogate": (answer(body(text="S").replace(b'"S"', b'"\\ud800"')), "JSON"),
    "surrogate_in_error": (
        answer(b'{"error": {"message": "bad \\ud800 thing"}}', "500 Oh"),
        "bad thing",
    ),
    "text_a_number": (answer(body(text=3)), "text"),
    "text_missing": (answer(body().replace(b'"text"', b'"txet"')), "text"),
    "id_too_large": (answer(body(token_ids=[10**6])), "not of this model's vocabulary"),
    "id_huge": (answer(body(token_ids=[10**40])), "token_ids"),
    "id_negative": (answer(body(token_ids=[-1])), "token_ids"),
    "id_text": (answer(body(token_ids=["5"])), "token_ids"),
    "id_null": (answer(body(token_ids=[None])), "token_ids"),
    "ids_missing": (answer(body(token_ids=None)), "missing"),
    "ids_too_many": (answer(body(token_ids=[5] * 999)), "too many"),
    "logprobs_null": (answer(body(logprobs={"token_logprobs": [None]})), "log-probabilities"),
    "logprobs_missing": (answer(body(logprobs=None)), "log-probabilities"),
    "logprobs_too_few": (answer(body(token_ids=[5, 5])), "log-probabilities"),
    "logprob_nan": (answer(body().replace(b"-0.5", b"NaN")), "token_logprobs"),
    "logprob_positive": (answer(body(logprobs={"token_logprobs": [3.5]})), "token_logprobs"),
    "finish_null": (answer(body(finish_reason=None)), "finish_reason"),
    "finish_abort": (answer(body(finish_reason="abort")), "finish_reason: abort"),
    "wrote_nothing": (
        answer(body(text="", token_ids=[], logprobs={"token_logprobs": []})),
        "wrote nothing",
    ),
    "number_of_digits": (answer(b'{"choices": ' + b"9" * 10_000 + b"}"), "JSON"),
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
        "redirects to http://elsewhere/",
    ),
    "reason_of_500": (error("500 Oh", {"error": {"message": LORA}}), LORA),
    "reason_of_503": (error("503 Busy", {"detail": "warming up"}), "warming up"),
    "too_many_requests": (error("429 Slow", {"message": "the queue is full"}), "the queue is full"),
    "escapes": (error("500 Oh", {"error": {"message": ESCAPES}}), "evil"),
    "escapes_raw": (answer(ESCAPES.encode(), "500 Oh"), "evil"),
}
#: behaviours in time rather than in bytes
SLOW = {"trickle": "no whole answer within", "trickled_head": "no whole answer within", "silence": "no whole answer",
        "unbounded": "MiB", "unbounded_chunks": "MiB"}  # fmt: skip


def good(request: dict) -> bytes:
    """What a probe wants: as vLLM would answer."""
    ids = request["prompt"] if isinstance(request["prompt"], list) else [1]
    num = request["max_tokens"]
    text = "abcdefghijklmnop"[:num]
    whole = choice(text=text, token_ids=[GOOD_ID] * num, logprobs={"token_logprobs": [GOOD_VALUE] * num})
    if "prompt_logprobs" in request:
        whole["prompt_logprobs"] = [None, *({str(i): {"logprob": GOOD_VALUE}} for i in ids[1:])]
    return answer(json.dumps({"choices": [whole]}).encode())


def slowly(name: str, there: socket.socket) -> None:
    """Until the client has had enough."""
    if name == "silence":
        time.sleep(60)
    start = {
        "trickle": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        "trickled_head": b"HTTP/1.1 200 OK\r\nX: ",
        "unbounded": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "unbounded_chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    }[name]
    there.sendall(start)
    block = b" " * (1 << 20)
    while True:
        if name.startswith("unbounded"):
            there.sendall(block if name == "unbounded" else b"100000\r\n" + block + b"\r\n")
        else:
            there.sendall(b" ")
            time.sleep(0.05)


def serve(there: socket.socket, behaviour: list[str], seen: list[dict]) -> None:
    """One connection, one answer."""
    with there:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := there.recv(1 << 16)):
                return None
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        while len(rest) < int(found[1] if found else 0):
            rest += there.recv(1 << 16)
        line = head.split(b"\r\n")[0].decode()
        if "/v1/models" in line:
            listed = [{"id": "base", "owned_by": "vllm", "max_model_len": 512}]
            return there.sendall(answer(json.dumps({"data": listed}).encode()))
        if "/version" in line:
            return there.sendall(answer(b'{"version": "0"}'))
        if "/hostile/" in line:  # from now on
            behaviour[:] = [line.split("/hostile/")[1].split()[0]]
            seen.clear()
            return there.sendall(answer(b"{}"))
        if "/seen" in line:
            return there.sendall(answer(json.dumps(seen).encode()))
        request = json.loads(rest)
        seen.append(request)
        if behaviour == ["good"]:
            return there.sendall(good(request))
        if behaviour[0] in SLOW:
            return slowly(behaviour[0], there)
        return there.sendall(REPLIES[behaviour[0]][0])


def main() -> None:
    """Serve until the parent ends it."""
    behaviour, seen = ["good"], []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            there, _ = server.accept()

            def one(there: socket.socket = there) -> None:
                try:
                    serve(there, behaviour, seen)
                except OSError:
                    there.close()

            threading.Thread(target=one, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
