"""Drives a chat on a pseudo-terminal: commands, an answer, Ctrl-C that stops it, the end.

    python3 .ci/chat.py minerva run MODEL
"""

import os
import pty
import select
import signal
import sys
import time

TIMEOUT_S = 120


def main():
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.argv[1], sys.argv[1:] + ["--temperature", "0"])
    seen = b""

    def expect(text):
        """Reads on until `text` has come, and forgets everything up to it."""
        nonlocal seen
        deadline = time.monotonic() + TIMEOUT_S
        while text not in seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                os.kill(pid, signal.SIGKILL)
                sys.exit(f"waited in vain for {text!r}, got {seen!r}")
            try:
                chunk = os.read(terminal, 4096)
            except OSError:
                chunk = b""
            if not chunk:
                sys.exit(f"the chat ended, expected {text!r}, got {seen!r}")
            seen += chunk
        seen = seen.split(text, 1)[1]

    def send(text):
        os.write(terminal, text)

    expect(b">>> ")
    send(b"/help\r")
    expect(b"forget the conversation")
    expect(b">>> ")
    send(b"/set max-tokens many\r")
    expect(b"expected a number")
    expect(b">>> ")
    send(b"/system You are a pirate.\r")
    expect(b"system message set")
    expect(b">>> ")
    send(b"Why is the sky blue? Explain it in all detail.\r")
    expect(b"sky")  # the line itself
    expect(b"the")  # the answer has begun
    send(b"\x03")
    expect(b"stopped")
    expect(b">>> ")
    send(b"/clear\r")
    expect(b"forgotten")
    expect(b">>> ")
    send(b"/set max-tokens 4\r")
    expect(b">>> ")
    send(b"Hello\r")
    expect(b"greatest length")
    expect(b">>> ")
    send(b"\x04")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        sys.exit(f"exit status {status}, expected 0")
    print("chat: commands, answer, Ctrl-C and Ctrl-D work")


main()
