"""Runs agents behind an AG-UI endpoint and has the public validator judge every stream, and the public models every event.

AGUI_URL and AGUI_TOKEN say where, AGUI_AGENTS whom (separated by commas; an empty name is the team). Whatever a run is
interrupted for is answered. Exit code 0: nothing was found.
"""

import asyncio
import json
import os
import sys
import uuid

from ag_ui._generated.models import Event
from ag_ui_validate import ValidatorOptions
from ag_ui_validate.transport import TransportOptions, validate_endpoint
from pydantic import TypeAdapter

MODELS = TypeAdapter(Event)
# A snapshot in the middle of a run is what the protocol wants before an interrupt; the clock of a loaded machine is no finding.
EXPECTED = {"AGUI304", "AGUI506", "AGUI507"}


def answer(interrupt):
    """What a person, or a program of theirs, would say."""
    if interrupt["reason"] == "input_required":
        return "blue"
    if interrupt["reason"] == "codelab:client_tool":
        return {"done": True}
    return {"approved": True}


async def run(body):
    """Posts a run; its events."""
    events, findings = [], []

    def seen(raw, _):
        event = json.loads(raw)
        MODELS.validate_python(event)
        events.append(event)

    options = TransportOptions(
        validator=ValidatorOptions(features=["shared-state"]),
        headers={"authorization": "Bearer " + os.environ["AGUI_TOKEN"]},
        input=body,
        timeout_ms=60_000,
        on_event=seen,
        on_diagnostic=findings.append,
    )
    result = await validate_endpoint(os.environ["AGUI_URL"], options)
    assert result.status == 200 and result.content_type == "text/event-stream", result
    findings = [found for found in findings if found.rule not in EXPECTED]
    assert not findings, "\n".join(map(str, findings))
    return events


def kinds(events):
    """The kinds, each once in a row: text may come in other pieces."""
    return [event["type"] for at, event in enumerate(events) if at == 0 or event["type"] != events[at - 1]["type"]]


async def story(agent):
    """A whole conversation with an agent; how many runs it took."""
    body = {
        "threadId": str(uuid.uuid4()),
        "runId": "0",
        "messages": [{"id": "said", "role": "user", "content": "begin"}],
        "tools": [],
        "context": [],
        "state": {},
        "forwardedProps": {"agent": agent} if agent else {},
    }
    first = events = await run(body)
    begun = dict(body)
    runs = 1
    while events[-1].get("outcome", {}).get("type") == "interrupt":
        asked = events[-1]["outcome"]["interrupts"]
        body["resume"] = [{"interruptId": one["id"], "status": "resolved", "payload": answer(one)} for one in asked]
        body["runId"] = str(runs)
        events = await run(body)
        runs += 1
    assert events[-1]["outcome"]["type"] == "success", events[-1]
    again = await run(begun)
    assert kinds(again) == kinds(first) and again[-1] == first[-1], (again, first)
    return runs


async def main():
    for agent in os.environ["AGUI_AGENTS"].split(","):
        print(agent or "the team", await story(agent))


sys.exit(asyncio.run(main()))
