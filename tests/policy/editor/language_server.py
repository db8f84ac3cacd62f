"""yaml-language-server, as an editor drives it: JSON-RPC over its standard input and output."""

import asyncio
import itertools
import json
from pathlib import Path
from types import TracebackType
from typing import Any

ANSWER_S = 30.0
"""The server starts Node.js and reads the schema first."""


class LanguageServer:
    """One server process, as an async context manager. Lines and columns count from 1, as in findings."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._diagnostics: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()

    async def __aenter__(self) -> "LanguageServer":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec("node", self._program, "--stdio", stdin=pipe, stdout=pipe)
        self._reader = asyncio.create_task(self._read())
        root = self._folder.as_uri()
        await self._ask("initialize", {"processId": None, "rootUri": root, "capabilities": {}})
        self._say("initialized", {})
        settings = {"yaml": {"validate": True, "completion": True, "hover": True, "schemaStore": {"enable": False}}}
        self._say("workspace/didChangeConfiguration", {"settings": settings})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        await self._process.wait()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def open(self, file: Path) -> list[tuple[int, int, str]]:
        """Open a file; the line, column and message of everything that is marked in it."""
        self._uri = file.as_uri()
        document = {"uri": self._uri, "languageId": "yaml", "version": 1, "text": file.read_text("utf-8")}
        self._say("textDocument/didOpen", {"textDocument": document})
        async with asyncio.timeout(ANSWER_S):
            found = await self._diagnostics.get()
        starts = [(one["range"]["start"], one["message"]) for one in found]
        return sorted((start["line"] + 1, start["character"] + 1, message) for start, message in starts)

    async def hover(self, line: int, column: int) -> str:
        """What the pointer shows at this place."""
        answer = await self._ask("textDocument/hover", self._at(line, column))
        return "" if answer is None else str(answer["contents"]["value"])

    async def complete(self, line: int, column: int) -> set[str]:
        """What is offered at this place."""
        answer = await self._ask("textDocument/completion", self._at(line, column))
        return {item["label"] for item in answer["items"]}

    def _at(self, line: int, column: int) -> dict[str, Any]:
        return {"textDocument": {"uri": self._uri}, "position": {"line": line - 1, "character": column - 1}}

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S):
            return await self._answers[number]

    def _say(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _send(self, content: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **content}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while True:
            head = await stdout.readuntil(b"\r\n\r\n")
            (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
            content = json.loads(await stdout.readexactly(length))
            if content.get("method") == "textDocument/publishDiagnostics":
                self._diagnostics.put_nowait(content["params"]["diagnostics"])
            elif "method" in content and "id" in content:  # it asks for settings, or to register something
                asked = content.get("params", {}).get("items", [])
                self._send({"id": content["id"], "result": [None] * len(asked) if asked else None})
            elif content.get("id") in self._answers:
                answer = self._answers[content["id"]]
                if "error" in content:
                    answer.set_exception(AssertionError(str(content["error"])))
                else:
                    answer.set_result(content["result"])
