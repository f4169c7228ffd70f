"""Requests to a running service over sockets that a check can hold, read slowly, and break off."""

import asyncio
import json
import socket


class Request:
    """One request for a completion on a connection of its own."""

    def __init__(self, service, key=None, receive_buffer=None, **fields):
        self.service, self.key, self.receive_buffer = service, key or service.key, receive_buffer
        # Nothing but max_tokens ends it, and it needs no text that makes sense.
        self.fields = {"model": service.name, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0,
                       "ignore_eos": True, "stream": True} | fields
        self.status = None

    async def send(self, path="/v1/completions", body=None):
        own = socket.socket()
        own.setblocking(False)
        if self.receive_buffer:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self.service.port))
        limit = self.receive_buffer or 1 << 20
        self.reader, self.writer = await asyncio.open_connection(sock=own, limit=limit)
        body = json.dumps(self.fields).encode() if body is None else body
        head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n"
                f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n")
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        return self

    async def head(self):
        """The status; the rest of the head goes to `headers`."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return self.status

    async def events(self):
        """The events of an answer, as JSON; the last is `[DONE]` if it came."""
        while line := await self.reader.readline():
            if line.startswith(b"data: "):
                data = line[6:].strip().decode()
                yield data if data == "[DONE]" else json.loads(data)

    async def answer(self):
        """Reads all: the status, and the text of a whole answer or the code of an error."""
        if await self.head() != 200:
            return self.status, await self.error()
        text = ""
        async for event in self.events():
            if event == "[DONE]":
                self.leave()
                return 200, text
            if "error" in event:
                self.leave()
                return 200, event["error"]["code"]
            text += event["choices"][0]["text"] if event["choices"] else ""
        self.leave()
        return 200, "broken off"

    async def error(self):
        body = await self.reader.readexactly(int(self.headers["content-length"]))
        self.leave()
        return json.loads(body)["error"]["code"]

    def leave(self):
        """Closes the connection without another word."""
        self.writer.transport.abort()
