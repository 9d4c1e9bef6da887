// Talks to agents by the public AG-UI client, which checks every event and refuses what breaks the protocol.
// AGUI_URL and AGUI_TOKEN say where, AGUI_AGENTS whom (separated by commas; an empty name is the team).
import assert from "node:assert";
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const { AGUI_URL, AGUI_TOKEN, AGUI_AGENTS } = process.env;

const answer = ({ reason }) =>
  reason === "input_required" ? "blue" : reason === "codelab:client_tool" ? { done: true } : { approved: true };

for (const name of AGUI_AGENTS.split(",")) {
  const agent = new HttpAgent({ url: AGUI_URL, headers: { Authorization: `Bearer ${AGUI_TOKEN}` } });
  const forwardedProps = name ? { agent: name } : {};
  agent.addMessage({ id: "said", role: "user", content: "begin" });
  let run = await agent.runAgent({ forwardedProps });
  let runs = 1;
  while (agent.pendingInterrupts.length > 0) {
    const open = agent.pendingInterrupts;
    const answers = Object.fromEntries(open.map((one) => [one.id, { status: "resolved", payload: answer(one) }]));
    run = await agent.runAgent({ forwardedProps, resume: buildResumeArray(open, answers) });
    runs += 1;
  }
  const said = agent.messages.filter(({ role, content }) => role === "assistant" && content);
  assert.ok(said.length > 0, JSON.stringify(agent.messages));
  assert.equal(run.result.state, "succeeded", JSON.stringify(run));
  assert.equal(said.at(-1).content, run.result.answer);
  assert.ok(agent.state.plan.steps.every(({ state }) => state === "succeeded"), JSON.stringify(agent.state));
  assert.equal(new Set(agent.messages.map(({ id }) => id)).size, agent.messages.length);
  // The conversation goes on.
  agent.addMessage({ id: "more", role: "user", content: "thanks" });
  console.log(name || "the team", runs, said.length);
}
