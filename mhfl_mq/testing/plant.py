"""A federation of real `mhfl` commands over a real broker, for tests: started, watched, and looked into."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mhfl_mq.errors import StoreError
from mhfl_mq.store.view import open_view
from mhfl_mq.testing.processes import Ended, Processes
from mhfl_mq.transport.embedded import EmbeddedBroker

__all__ = ["Plant"]


class Plant:
    """One aggregator and some devices; `mhfl` is the script that is the command line, `policy` the usual policy."""

    def __init__(self, processes: Processes, broker: EmbeddedBroker, mhfl: Path, policy: Path) -> None:
        self.processes = processes
        self.broker = broker
        self.folder = processes.folder
        self.state = self.folder / "aggregator"
        self._mhfl = str(mhfl)
        self._policy = policy

    def mhfl(self, *words: object, env: Mapping[str, str] | None = None, patience_s: float = 60.0) -> Ended:
        """Run a command to its end; the broker's address is in its environment."""
        return self.processes.run([self._mhfl, *map(str, words)], env=self._env(env), patience_s=patience_s)

    def start(
        self,
        name: str,
        *words: object,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Start a command under a name."""
        self.processes.start(name, [self._mhfl, *map(str, words)], env=self._env(env), prepare=prepare)

    def aggregator(
        self,
        *more: object,
        name: str = "aggregator",
        state: Path | None = None,
        policy: Path | None = None,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Start an aggregator."""
        words = ["aggregator", "--state", state or self.state, "--policy", policy or self._policy, *more]
        self.start(name, *words, env=env, prepare=prepare)

    def device(
        self,
        name: str,
        strength: int = 1,
        *more: object,
        state: Path | None = None,
        env: Mapping[str, str] | None = None,
        log: str = "",
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Start a device that can carry tiers up to `strength`."""
        url = {"MHFL_BROKER": self.broker.url_for("device"), **(env or {})}
        words = ["device", name, "--state", state or self.folder / name, "--shard", strength, *more]
        self.start(log or name, *words, env=url, prepare=prepare)

    # ---- what came of it ----

    def rounds(self) -> int:
        """How many rounds were committed so far."""
        try:
            with open_view(self.state) as view:
                return sum(one.added.round is not None for one in view.versions())
        except StoreError:  # not there yet
            return 0

    def await_rounds(self, more: int) -> None:
        """Until so many rounds more were committed than now."""
        goal = self.rounds() + more
        self.processes.until(lambda: self.rounds() >= goal, f"{more} rounds more")

    def await_counted(self, *devices: str) -> None:
        """Until an update of each of these devices was counted in a round that begins after now."""
        now = self.last_round()
        missing = set(devices)

        def counted() -> bool:
            for facts in self.entries("update.count"):
                if facts["round"] > now:
                    missing.discard(facts["device"])
            return not missing

        self.processes.until(counted, f"update of {', '.join(devices)}")

    def last_round(self) -> int:
        """The newest round that was opened."""
        return max((facts["round"] for facts in self.entries("round.open")), default=0)

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The facts of the ledger's whole lines of this kind, oldest first."""
        path = self.state / "ledger.jsonl"
        if not path.exists():
            return []
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line["facts"] for line in lines if line["kind"] == kind]

    def await_entry(self, kind: str, **facts: object) -> dict[str, Any]:
        """Until the ledger has an entry of this kind with these facts; returns all its facts."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found.extend(one for one in self.entries(kind) if facts.items() <= one.items())
            return bool(found)

        self.processes.until(there, f"ledger entry {kind} {facts}")
        return found[0]

    def await_log(self, name: str, text: str) -> None:
        """Until a process has printed this."""
        self.processes.until(lambda: text in self.processes.log(name), f"{text!r} in the log of {name}")

    def verify(self) -> None:
        """The ledger is whole, as the command sees it."""
        done = self.mhfl("ledger", "verify", "--state", self.state)
        assert (done.code, done.err) == (0, ""), f"{done}\n{self.processes.logs()}"

    def _env(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {"MHFL_BROKER": self.broker.url, **(more or {})}
