# ruff: noqa: N802  (the callbacks have the names that QuickFIX gives them)
"""QuickFIX doing what `benches/sessions.py` measures of ours: logon, then quote request, quote,
order and fill, each session one after the other; FIX 4.4 with its data dictionary, callbacks in
Python, messages kept by its FileStore. Runs in an environment of its own; told and asked by lines
of JSON.

    quickfix_peer.py acceptor PLACE SESSIONS
    quickfix_peer.py initiator PLACE SESSIONS PORT TRADES
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from time import perf_counter, process_time

import quickfix as fix
import quickfix44 as fix44

DICTIONARY = Path(sys.prefix) / "share" / "quickfix" / "FIX44.xml"
SYMBOL = "BTC-USD"


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def settings(place: Path, kind: str, sessions: int, port: int) -> fix.SessionSettings:
    us, them = ("SOLVER", "TRADER") if kind == "acceptor" else ("TRADER", "SOLVER")
    words = [
        "[DEFAULT]",
        f"ConnectionType={kind}",
        "BeginString=FIX.4.4",
        "StartTime=00:00:00",
        "EndTime=00:00:00",
        "HeartBtInt=30",
        "ReconnectInterval=1",
        "LogonTimeout=120",
        "UseDataDictionary=Y",
        f"DataDictionary={DICTIONARY}",
        f"FileStorePath={place / kind}",
        "SocketNodelay=Y",
        f"SocketAcceptPort={port}",
        "SocketReuseAddress=Y",
        "SocketConnectHost=127.0.0.1",
        f"SocketConnectPort={port}",
    ]
    for one in range(sessions):
        words += ["[SESSION]", f"SenderCompID={us}{one}", f"TargetCompID={them}{one}"]
    path = place / f"{kind}.cfg"
    path.write_text("\n".join(words) + "\n")
    return fix.SessionSettings(str(path))


class Sides(fix.Application):
    """What both have in common: nothing happens but messages."""

    def onCreate(self, session: fix.SessionID) -> None: ...
    def onLogon(self, session: fix.SessionID) -> None: ...
    def onLogout(self, session: fix.SessionID) -> None: ...
    def toAdmin(self, message: fix.Message, session: fix.SessionID) -> None: ...
    def fromAdmin(self, message: fix.Message, session: fix.SessionID) -> None: ...
    def toApp(self, message: fix.Message, session: fix.SessionID) -> None: ...


def kind_of(message: fix.Message) -> str:
    return message.getHeader().getField(35)


class Acceptor(Sides):
    """Quotes one price and fills at once."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def fromApp(self, message: fix.Message, session: fix.SessionID) -> None:
        self._count += 1
        if kind_of(message) == "R":
            group = fix44.QuoteRequest().NoRelatedSym()
            message.getGroup(1, group)
            answer = fix44.Quote()
            answer.setField(fix.QuoteID(f"q{self._count}"))
            answer.setField(fix.QuoteReqID(message.getField(131)))
            answer.setField(fix.Symbol(group.getField(55)))
            answer.setField(fix.BidPx(50_000))
            answer.setField(fix.OfferPx(50_000))
            answer.setField(fix.BidSize(float(group.getField(38))))
            answer.setField(fix.OfferSize(float(group.getField(38))))
            answer.setField(fix.ValidUntilTime())
        else:
            quantity = float(message.getField(38))
            answer = fix44.ExecutionReport()
            answer.setField(fix.OrderID(f"o{self._count}"))
            answer.setField(fix.ExecID(f"e{self._count}"))
            answer.setField(fix.ClOrdID(message.getField(11)))
            answer.setField(fix.ExecType("F"))
            answer.setField(fix.OrdStatus("2"))
            answer.setField(fix.Symbol(message.getField(55)))
            answer.setField(fix.Side(message.getField(54)))
            answer.setField(fix.OrderQty(quantity))
            answer.setField(fix.LastQty(quantity))
            answer.setField(fix.LastPx(50_000))
            answer.setField(fix.LeavesQty(0))
            answer.setField(fix.CumQty(quantity))
            answer.setField(fix.AvgPx(50_000))
        fix.Session.sendToTarget(answer, session)


class Initiator(Sides):
    """Trades on every session, one trade after the other, `wanted` times."""

    def __init__(self, sessions: int) -> None:
        super().__init__()
        self.sessions: dict[str, fix.SessionID] = {}
        self.all_open, self.all_done = threading.Event(), threading.Event()
        self.times: deque[float] = deque()
        self._expected = sessions
        self._left: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._closes: dict[str, bool] = {}
        self._count = 0
        self._open = 0
        self._lock = threading.Lock()

    def onLogon(self, session: fix.SessionID) -> None:
        self.sessions[session.toString()] = fix.SessionID(
            session.getBeginString().getValue(),
            session.getSenderCompID().getValue(),
            session.getTargetCompID().getValue(),
        )
        if len(self.sessions) == self._expected:
            self.all_open.set()

    def trade(self, wanted: int) -> float:
        """Seconds that it took, all sessions together."""
        self.times.clear()
        self.all_done.clear()
        self._open = len(self.sessions)
        self._left = dict.fromkeys(self.sessions, wanted)
        began = perf_counter()
        for name, session in self.sessions.items():
            self._ask(name, session)
        self.all_done.wait()
        return perf_counter() - began

    def _ask(self, name: str, session: fix.SessionID) -> None:
        self._began[name] = perf_counter()
        self._count += 1
        asked = fix44.QuoteRequest()
        asked.setField(fix.QuoteReqID(f"r{self._count}"))
        group = fix44.QuoteRequest().NoRelatedSym()
        group.setField(fix.Symbol(SYMBOL))
        group.setField(fix.OrderQty(0.01))
        asked.addGroup(group)
        fix.Session.sendToTarget(asked, session)

    def fromApp(self, message: fix.Message, session: fix.SessionID) -> None:
        name = session.toString()
        if kind_of(message) == "S":
            self._count += 1
            closes = self._closes.get(name, False)
            self._closes[name] = not closes
            order = fix44.NewOrderSingle()
            order.setField(fix.ClOrdID(f"c{self._count}"))
            order.setField(fix.Symbol(message.getField(55)))
            order.setField(fix.Side("2" if closes else "1"))
            order.setField(fix.PositionEffect("C" if closes else "O"))
            order.setField(fix.TransactTime())
            order.setField(fix.OrderQty(0.01))
            order.setField(fix.OrdType("D"))
            order.setField(fix.QuoteID(message.getField(117)))
            order.setField(fix.Price(float(message.getField(133))))
            fix.Session.sendToTarget(order, session)
            return
        assert message.getField(39) == "2", message.toString()
        self.times.append(perf_counter() - self._began[name])
        self._left[name] -= 1
        if self._left[name]:
            self._ask(name, self.sessions[name])
            return
        with self._lock:
            self._open -= 1
            if not self._open:
                self.all_done.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def used() -> dict[str, object]:
    return {
        "cpu_s": process_time(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def accept(place: Path, sessions: int) -> None:
    port = free_port()
    chosen = settings(place, "acceptor", sessions, port)
    application, store = Acceptor(), fix.FileStoreFactory(chosen)
    acceptor = fix.SocketAcceptor(application, store, chosen)
    acceptor.start()
    say(port=port)
    for _ in sys.stdin:
        say(**used())
    acceptor.stop(True)


def initiate(place: Path, sessions: int, port: int, trades: int) -> None:
    chosen = settings(place, "initiator", sessions, port)
    application, store = Initiator(sessions), fix.FileStoreFactory(chosen)
    initiator = fix.SocketInitiator(application, store, chosen)
    initiator.start()
    application.all_open.wait()
    time.sleep(0.2)
    say(open=sessions)
    for _ in sys.stdin:
        application.trade(min(trades, 10))
        cpu = process_time()
        seconds = application.trade(trades)
        say(seconds=seconds, times=list(application.times), cpu_s=process_time() - cpu)
    initiator.stop(True)


if __name__ == "__main__":
    if sys.argv[1] == "acceptor":
        accept(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        initiate(Path(sys.argv[2]), *map(int, sys.argv[3:]))
