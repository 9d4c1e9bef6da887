-- The heart: people, their agents, sessions, plans, steps, and what makes them move.
-- Every table of a user carries user_id in its key and every reference between such tables is
-- composite, so that a row of one user cannot point at a row of another, and so that the whole can
-- be distributed by user_id unchanged.
-- The order inside a key follows one rule: of the indexes that a statement could use on a table, one only begins with
-- user_id. With two, a planner that has no statistics yet (a young installation) sees a tie, may take the wrong one, and
-- reads all rows of the user for each key: measured, 26 ms instead of 0.02 ms.

create type step_state as enum ('blocked', 'ready', 'running', 'suspended', 'succeeded', 'failed', 'skipped', 'cancelled');
comment on type step_state is 'States of a step (ARCHITECTURE.md, state diagram).';
create type plan_state as enum ('active', 'succeeded', 'partial', 'failed', 'cancelled');
comment on type plan_state is 'Stored states of a plan; planning, awaiting approval and running are derived from its steps.';
create type plan_mode as enum ('direct', 'orchestrated', 'explicit');
comment on type plan_mode is 'How a plan came to be: one agent was addressed, the orchestrator planned it, or the person sent it.';
create type edge_when as enum ('success', 'done', 'failure');
comment on type edge_when is 'When an edge counts as met: the needed step succeeded; it ended in any way; it failed.';
create type step_join as enum ('all', 'any');
comment on type step_join is 'Which of its needs a step waits for: every edge, or the first that is met.';
create type failure_policy as enum ('decide', 'continue', 'abort');
comment on type failure_policy is 'What a plan does when a step fails for good: ask the person, go on with what does not need it, end the rest.';
create type wait_kind as enum ('approval', 'input', 'client_tool', 'timer', 'child');
comment on type wait_kind is 'Why a step is suspended.';
create type wait_decision as enum ('approved', 'edited', 'rejected', 'answered', 'elapsed', 'timed_out', 'cancelled', 'superseded');
comment on type wait_decision is 'How a wait ended. Never collapsed: a timeout is not a rejection.';

create table users (
  id uuid primary key,
  issuer text not null,
  subject text not null,
  email text,
  created_at timestamptz not null default now(),
  constraint users_issuer_subject_key unique (issuer, subject)
);
comment on table users is 'People, created at the first sight of their token.';
comment on column users.id is 'Internal id; the only form of a user that appears in keys.';
comment on column users.issuer is 'iss of the token, empty for tokens of this installation.';
comment on column users.subject is 'sub of the token, at most 255 characters.';
comment on column users.email is 'Address from the token, if it had one; never used as a key.';
comment on column users.created_at is 'First sight.';

create table user_feeds (
  user_id uuid primary key references users on delete cascade,
  last_seq bigint not null default 0 check (last_seq >= 0),
  last_at timestamptz not null default 'epoch',
  claimable_steps integer not null default 0 check (claimable_steps >= 0)
) with (fillfactor = 50);
comment on table user_feeds is 'The hot counters of a user, locked last by every transition. Narrow and without a second index, so that its updates stay on the page.';
comment on column user_feeds.user_id is 'Whose counters.';
comment on column user_feeds.last_seq is 'seq of the newest event; taken under this row''s lock, hence without gaps.';
comment on column user_feeds.last_at is 'Its time. Time does not go back in a feed, also where the server''s clock does: a reader need not look into older partitions.';
comment on column user_feeds.claimable_steps is 'Rows of ready_steps with a place; spreads the ranks of a user with many (fairness).';

create table user_agents (
  user_id uuid not null references users on delete cascade,
  id uuid not null,
  name text not null check (char_length(name) between 1 and 100),
  version integer not null default 1 check (version >= 1),
  max_concurrency smallint not null default 3 check (max_concurrency between 1 and 10),
  places smallint not null,
  running_steps smallint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  primary key (user_id, id),
  constraint user_agents_places_check check (places between max_concurrency and 10),
  constraint user_agents_limit_check check (running_steps between 0 and places)
) with (fillfactor = 70);
-- A name is free again after its agent is deleted.
create unique index user_agents_name_key on user_agents (user_id, name) where deleted_at is null;
comment on table user_agents is 'A person''s agents. The configuration lives in agent_versions, so that the counter''s updates copy a narrow row.';
comment on column user_agents.user_id is 'Owner.';
comment on column user_agents.id is 'UUIDv7.';
comment on column user_agents.name is 'Unique among the owner''s living agents.';
comment on column user_agents.version is 'Newest version, in agent_versions.';
comment on column user_agents.max_concurrency is 'Wanted limit of steps at once, 1 to 10.';
comment on column user_agents.places is 'Limit in force: max_concurrency, or more while steps begun under a higher limit still run; never grows by itself.';
comment on column user_agents.running_steps is 'Places granted (claimable or running steps). At most places: the limit is a fact of the schema.';
comment on column user_agents.created_at is 'Creation.';
comment on column user_agents.updated_at is 'Last change of name or configuration.';
comment on column user_agents.deleted_at is 'Set when deleted; the row stays for the history of its steps.';

create table agent_versions (
  user_id uuid not null,
  agent_id uuid not null,
  version integer not null check (version >= 1),
  config jsonb not null,
  created_at timestamptz not null default now(),
  primary key (user_id, agent_id, version),
  foreign key (user_id, agent_id) references user_agents on delete cascade
);
comment on table agent_versions is 'Each configuration an agent ever had; a running step keeps the one it began with.';
comment on column agent_versions.user_id is 'Owner.';
comment on column agent_versions.agent_id is 'Whose configuration.';
comment on column agent_versions.version is 'Counts from 1.';
comment on column agent_versions.config is 'Model, system prompt, tools, limits (engine::agent::AgentConfig).';
comment on column agent_versions.created_at is 'When it became the newest.';

create table user_orchestrators (
  user_id uuid primary key references users on delete cascade,
  id uuid not null,
  version integer not null default 1 check (version >= 1),
  config jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table user_orchestrators is 'The planner of a person; without a row the defaults hold.';
comment on column user_orchestrators.user_id is 'Owner; one planner each.';
comment on column user_orchestrators.id is 'UUIDv7.';
comment on column user_orchestrators.version is 'Counts changes.';
comment on column user_orchestrators.config is 'Model, prompt, limits (engine::agent::OrchestratorConfig).';
comment on column user_orchestrators.created_at is 'Creation.';
comment on column user_orchestrators.updated_at is 'Last change.';

create table chat_sessions (
  user_id uuid not null references users on delete cascade,
  id uuid not null,
  title text check (char_length(title) between 1 and 200),
  active_plan_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  primary key (user_id, id)
) with (fillfactor = 70);
comment on table chat_sessions is 'Conversations.';
comment on column chat_sessions.user_id is 'Owner.';
comment on column chat_sessions.id is 'UUIDv7.';
comment on column chat_sessions.title is 'What the person calls it.';
comment on column chat_sessions.active_plan_id is 'The plan whose turn it is: messages of one session run one after another.';
comment on column chat_sessions.created_at is 'Creation.';
comment on column chat_sessions.updated_at is 'Last change of the title.';
comment on column chat_sessions.deleted_at is 'Set when deleted.';

create table plans (
  user_id uuid not null references users on delete cascade,
  id uuid not null,
  session_id uuid,
  message_id uuid,
  mode plan_mode not null,
  goal text not null check (char_length(goal) between 1 and 32768),
  class smallint not null check (class between 0 and 3),
  state plan_state not null default 'active',
  queued boolean not null default false,
  open_steps integer not null check (open_steps >= 0),
  succeeded_steps integer not null default 0 check (succeeded_steps >= 0),
  unsuccessful_steps integer not null default 0 check (unsuccessful_steps >= 0),
  revision integer not null default 1 check (revision >= 1),
  on_failure failure_policy not null default 'continue',
  paused_at timestamptz,
  deadline timestamptz,
  cancel_requested_at timestamptz,
  cancel_reason text check (cancel_reason in ('person', 'timed_out')),
  cancelling_steps uuid[],
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  primary key (user_id, id),
  foreign key (user_id, session_id) references chat_sessions on delete cascade,
  constraint plans_open_check check ((open_steps = 0) = (state <> 'active')),
  constraint plans_finished_check check ((finished_at is not null) = (state <> 'active')),
  constraint plans_queued_check check (not queued or (state = 'active' and session_id is not null)),
  constraint plans_cancelled_check check (state <> 'cancelled' or cancel_requested_at is not null),
  constraint plans_cancelled_by_check check ((cancel_reason is null) = (cancel_requested_at is null))
) with (fillfactor = 50);
-- Lists go by the primary key, newest first (ids are ordered by time). No index names a column that a step's finish
-- changes: those updates stay on the page (HOT).
-- The line of waiting messages of a session, at most ten long.
create index plans_queue_idx on plans (user_id, session_id, id) where queued;
-- The open plans of a session: its snapshot, and its end.
create index plans_open_idx on plans (session_id, id) where state = 'active' and session_id is not null;
-- The clockmaker: plans with a time limit. A plan that closes loses its deadline, so the index holds open ones only.
create index plans_deadline_idx on plans (deadline) where deadline is not null;
comment on table plans is 'The DAG made for one message, or sent by the person.';
comment on column plans.user_id is 'Owner.';
comment on column plans.id is 'UUIDv7.';
comment on column plans.session_id is 'Session whose feed shows it, if any.';
comment on column plans.message_id is 'Message it answers, if any.';
comment on column plans.mode is 'How it came to be.';
comment on column plans.goal is 'What is wanted, in the person''s words.';
comment on column plans.class is 'Priority class: 0 interactive, 1 resumed, 2 planned, 3 background.';
comment on column plans.state is 'active until open_steps is 0.';
comment on column plans.queued is 'Waits for its session''s turn; its first steps count the turn among what they wait for.';
comment on column plans.open_steps is 'Steps that have not ended.';
comment on column plans.succeeded_steps is 'Steps that succeeded, planning and summary not counted; decides between partial and failed.';
comment on column plans.unsuccessful_steps is 'Steps that failed or were skipped.';
comment on column plans.revision is 'Counts changes of the graph by a person or the planner.';
comment on column plans.on_failure is 'What happens when a step fails for good.';
comment on column plans.paused_at is 'Since when the person has it held: what runs may end, nothing else begins.';
comment on column plans.deadline is 'When it is stopped, by the database''s clock; none: never, or closed.';
comment on column plans.cancel_requested_at is 'A running step that finishes after this ends cancelled.';
comment on column plans.cancel_reason is 'Who stopped it: the person, or its deadline.';
comment on column plans.cancelling_steps is 'Running steps that were cancelled by themselves; they end so when they finish. On the plan, because a claim may hold the step''s row.';
comment on column plans.created_at is 'Acceptance.';
comment on column plans.updated_at is 'Last transition of the plan or one of its steps.';
comment on column plans.finished_at is 'End of the last step.';

create table messages (
  user_id uuid not null,
  id uuid not null,
  session_id uuid not null,
  role text not null check (role in ('user', 'assistant')),
  content text not null,
  plan_id uuid,
  agent_id uuid,
  created_at timestamptz not null default now(),
  primary key (id, user_id),
  foreign key (user_id, session_id) references chat_sessions on delete cascade
);
-- History of a session, in order.
create index messages_session_idx on messages (session_id, created_at, id);
comment on table messages is 'What was said in a session.';
comment on column messages.user_id is 'Owner.';
comment on column messages.id is 'UUIDv7.';
comment on column messages.session_id is 'Where.';
comment on column messages.role is 'user or assistant.';
comment on column messages.content is 'The text.';
comment on column messages.plan_id is 'Plan that the message started, or that answers with it.';
comment on column messages.agent_id is 'Agent that speaks, or that was addressed.';
comment on column messages.created_at is 'When.';

create table steps (
  user_id uuid not null,
  id uuid not null,
  plan_id uuid not null,
  session_id uuid,
  agent_id uuid,
  agent_version integer,
  position integer not null check (position >= 0),
  key text not null check (char_length(key) between 1 and 96),
  kind text not null check (kind in ('planning', 'agent', 'summary', 'timer', 'map')),
  parent_id uuid,
  depth smallint not null default 0 check (depth between 0 and 3),
  joins step_join not null default 'all',
  spec jsonb not null,
  state step_state not null,
  waiting_for integer not null default 0 check (waiting_for >= 0),
  token bigint not null default 0 check (token >= 0),
  attempt smallint not null default 0 check (attempt >= 0),
  failures smallint not null default 0 check (failures >= 0),
  max_failures smallint not null default 3 check (max_failures between 1 and 100),
  failing_since timestamptz,
  retry_for_ms bigint check (retry_for_ms >= 0),
  ran_ms bigint not null default 0 check (ran_ms >= 0),
  timeout_ms bigint check (timeout_ms > 0),
  round smallint not null default 0 check (round >= 0),
  open_children integer not null default 0 check (open_children >= 0),
  woken_by uuid,
  waived boolean not null default false,
  last_error jsonb,
  result jsonb,
  error jsonb,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  primary key (user_id, id),
  constraint steps_key_key unique (plan_id, key, user_id),
  foreign key (user_id, plan_id) references plans on delete cascade,
  foreign key (user_id, agent_id) references user_agents,
  foreign key (user_id, parent_id) references steps on delete cascade,
  constraint steps_waived_check check (not waived or state = 'skipped'),
  constraint steps_children_check check (open_children = 0 or state in ('suspended', 'cancelled')),
  constraint steps_blocked_check check ((state = 'blocked') = (waiting_for > 0) or state in ('skipped', 'cancelled')),
  constraint steps_running_check check (state <> 'running' or (token > 0 and attempt > 0 and started_at is not null)),
  constraint steps_finished_check check ((finished_at is not null) = (state in ('succeeded', 'failed', 'skipped', 'cancelled'))),
  constraint steps_result_check check ((result is not null) = (state = 'succeeded')),
  constraint steps_error_check check ((error is not null) = (state = 'failed'))
) with (fillfactor = 50, toast_tuple_target = 256,
        autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
-- Children of a step.
create index steps_parent_idx on steps (parent_id, user_id) where parent_id is not null;
-- No index names state, token or a counter: a transition's update stays on the page (HOT). What is
-- ready, running or suspended stands in ready_steps, leases and waits. A long spec or result goes to
-- TOAST early (256 bytes), so that a transition copies a narrow row.
comment on table steps is 'Nodes of plans, the unit of claiming.';
comment on column steps.user_id is 'Owner.';
comment on column steps.id is 'UUIDv7.';
comment on column steps.plan_id is 'Plan.';
comment on column steps.session_id is 'Session of the plan, repeated for the events.';
comment on column steps.agent_id is 'Agent whose place it takes, if any.';
comment on column steps.agent_version is 'Version of the agent that it began with.';
comment on column steps.position is 'Place in the order in which the plan was written, from 0.';
comment on column steps.key is 'Name within the plan.';
comment on column steps.kind is 'Which executor runs it.';
comment on column steps.spec is 'What to do (engine::step::StepSpec).';
comment on column steps.state is 'See the diagram in ARCHITECTURE.md.';
comment on column steps.waiting_for is 'Edges not yet met, the session''s turn included.';
comment on column steps.token is 'The fence: grows by one with each claim, and with nothing else.';
comment on column steps.attempt is 'Runs so far; resumptions count too.';
comment on column steps.failures is 'Runs that failed or lost their worker; at max_failures the step fails.';
comment on column steps.max_failures is 'Bound of failures.';
comment on column steps.parent_id is 'The step that made it: a map its items, an agent what it delegates. None: the plan''s own step.';
comment on column steps.depth is 'How many agents have delegated on the way to it; above 0 the plan''s counters leave it to its parent.';
comment on column steps.joins is 'Whether it waits for all its needs or for one.';
comment on column steps.failing_since is 'Since when passing trouble (a provider, a database) has kept it from getting on; none: it got on.';
comment on column steps.retry_for_ms is 'How long passing trouble is borne; none: the installation''s default.';
comment on column steps.ran_ms is 'Time under leases in this round, waiting excluded.';
comment on column steps.timeout_ms is 'Bound of ran_ms; none: the installation''s default.';
comment on column steps.round is 'Counts new beginnings by the person; each has a journal of its own.';
comment on column steps.open_children is 'Children that have not ended.';
comment on column steps.woken_by is 'The wait whose end it has not acted on yet.';
comment on column steps.waived is 'The person goes on without it: edges that want its success count as met.';
comment on column steps.last_error is 'Why its newest run did not come to an end: {class, code, message}.';
comment on column steps.result is 'What it returned.';
comment on column steps.error is 'Why it failed: {class, code, message}.';
comment on column steps.created_at is 'Planning.';
comment on column steps.started_at is 'First claim.';
comment on column steps.finished_at is 'End.';

create table step_edges (
  user_id uuid not null,
  step_id uuid not null,
  needs_step_id uuid not null check (needs_step_id <> step_id),
  met_when edge_when not null default 'success',
  primary key (step_id, needs_step_id, user_id),
  foreign key (user_id, step_id) references steps on delete cascade,
  foreign key (user_id, needs_step_id) references steps on delete cascade
);
-- Dependents of a step that ended.
create index step_edges_dependents_idx on step_edges (needs_step_id, user_id) include (step_id, met_when);
comment on table step_edges is 'What a step needs.';
comment on column step_edges.user_id is 'Owner.';
comment on column step_edges.step_id is 'The step that waits.';
comment on column step_edges.needs_step_id is 'The step it waits for.';
comment on column step_edges.met_when is 'Which end of that step meets the edge.';

create table ready_steps (
  user_id uuid not null,
  step_id uuid not null,
  agent_id uuid,
  rank timestamptz not null,
  placed boolean not null,
  due_at timestamptz,
  paused boolean not null default false,
  told boolean not null default false,
  since timestamptz not null,
  primary key (step_id, user_id),
  constraint ready_steps_due_check check (not placed or (due_at is null and not paused))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- The claim: the best rank among those that have a place.
create index ready_steps_claim_idx on ready_steps (rank, step_id) where placed;
-- Admission: an agent's next steps when a place falls free.
create index ready_steps_waiting_idx on ready_steps (user_id, agent_id, rank, step_id) where not placed and due_at is null and not paused;
-- The clockmaker: steps whose time has come.
create index ready_steps_due_idx on ready_steps (due_at) where due_at is not null and not paused;
comment on table ready_steps is 'No foreign key: a row is written only by the statement that makes its step ready, under the same transaction, and a check per step would cost a lock of the steps row. One row per ready step: the right to take it out of ready. A row with a place may be claimed at once; the claim deletes it.';
comment on column ready_steps.user_id is 'Owner.';
comment on column ready_steps.step_id is 'The ready step.';
comment on column ready_steps.agent_id is 'Its agent, if any.';
comment on column ready_steps.rank is 'Order of the claim: time of becoming ready, plus the class''s handicap, plus one second for each claimable step the user had: fair between users, and it ages by itself.';
comment on column ready_steps.placed is 'A place of the agent is granted (steps without an agent always have one).';
comment on column ready_steps.due_at is 'Not before this instant (a retry''s backoff).';
comment on column ready_steps.paused is 'Its plan is held by the person.';
comment on column ready_steps.told is 'The person has been told that it waits.';
comment on column ready_steps.since is 'When it became ready.';

create table leases (
  user_id uuid not null,
  step_id uuid not null,
  token bigint not null,
  worker_id uuid not null,
  claimed_at timestamptz not null,
  run_until timestamptz not null,
  expires_at timestamptz not null,
  primary key (user_id, step_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- No index on expires_at: renewals stay on the page (HOT), and there are never more rows than permits of living workers.
comment on table leases is 'One row per running step: the right to take it out of running. Whoever deletes the row with its token has finished the step. No foreign key, for the same reason as ready_steps.';
comment on column leases.user_id is 'Owner.';
comment on column leases.step_id is 'The running step.';
comment on column leases.token is 'Token of the claim.';
comment on column leases.worker_id is 'The worker process, new with each start.';
comment on column leases.claimed_at is 'Begin of the run.';
comment on column leases.run_until is 'Longest run: no renewal goes beyond it.';
comment on column leases.expires_at is 'Renewed while it runs; after this the reaper may take the step away.';

create table waits (
  user_id uuid not null,
  id uuid not null,
  step_id uuid not null,
  plan_id uuid not null,
  session_id uuid,
  kind wait_kind not null,
  payload jsonb not null,
  deadline timestamptz,
  warned_at timestamptz,
  decision wait_decision,
  answer jsonb,
  decided_by jsonb,
  reopened_from uuid,
  reopenings smallint not null default 0 check (reopenings between 0 and 3),
  created_at timestamptz not null default now(),
  decided_at timestamptz,
  primary key (id, user_id),
  foreign key (user_id, step_id) references steps on delete cascade,
  foreign key (reopened_from, user_id) references waits on delete cascade,
  constraint waits_decided_check check ((decided_at is not null) = (decision is not null))
);
-- One open wait a step: the right to take it out of suspended.
create unique index waits_open_key on waits (step_id, user_id) where decision is null;
-- A wait is reopened once; its successor may be, in turn.
create unique index waits_reopened_key on waits (reopened_from, user_id) where reopened_from is not null;
-- A person's inbox: what is open, however much was decided before; and the history behind it, newest first. The inbox says
-- "open" in words of its own (num_nulls): a planner without statistics likes small indexes, and would read this one from end to end
-- for every statement that wants an open wait.
create index waits_inbox_idx on waits (kind, user_id, deadline) where num_nulls(decision) = 1;
create index waits_history_idx on waits (user_id, id);
-- The clockmaker: deadlines in order.
create index waits_deadline_idx on waits (deadline) where decision is null and deadline is not null;
comment on table waits is 'Why a step is or was suspended, and how that ended.';
comment on column waits.user_id is 'Owner.';
comment on column waits.id is 'UUIDv7.';
comment on column waits.step_id is 'The suspended step.';
comment on column waits.plan_id is 'Its plan.';
comment on column waits.session_id is 'Its session, for the events.';
comment on column waits.kind is 'What it waits for.';
comment on column waits.payload is 'What is asked.';
comment on column waits.deadline is 'Until when, by the database''s clock; none: for ever.';
comment on column waits.warned_at is 'When the person was told that the deadline is near.';
comment on column waits.decided_by is 'Who decided: {request_id, token}; none: the clock, or another transition.';
comment on column waits.reopened_from is 'The wait that it takes up again.';
comment on column waits.reopenings is 'How often it has been taken up; three times at most.';
comment on column waits.decision is 'How it ended; none: open.';
comment on column waits.answer is 'What came with the decision.';
comment on column waits.created_at is 'Suspension.';
comment on column waits.decided_at is 'Decision.';

create table effects (
  user_id uuid not null,
  step_id uuid not null,
  round smallint not null check (round >= 0),
  ordinal integer not null check (ordinal >= 0),
  kind text not null check (kind in ('model', 'tool')),
  effect text not null check (effect in ('read', 'idempotent', 'reversible', 'irreversible')),
  state text not null check (state in ('intent', 'done', 'unknown')),
  token bigint not null,
  approval_id uuid,
  request jsonb not null,
  result jsonb,
  partial text,
  created_at timestamptz not null default now(),
  done_at timestamptz,
  primary key (step_id, round, ordinal, user_id),
  foreign key (user_id, step_id) references steps on delete cascade,
  constraint effects_done_check check ((state = 'done') = (result is not null) and (state = 'done') = (done_at is not null)),
  constraint effects_partial_check check (partial is null or state = 'intent')
) with (fillfactor = 70, toast_tuple_target = 256);
-- An approval serves once.
create unique index effects_approval_key on effects (approval_id, user_id) where approval_id is not null;
comment on table effects is 'Journal of the calls of a step that cost money or change the world: a finished one is answered from here on a new attempt.';
comment on column effects.user_id is 'Owner.';
comment on column effects.step_id is 'The step that called.';
comment on column effects.round is 'The step''s round; a new beginning has a new journal.';
comment on column effects.ordinal is 'Place among the step''s calls, from 0; the same in each attempt.';
comment on column effects.kind is 'A model turn or a tool call.';
comment on column effects.effect is 'What may be done about an intent without a result: read and idempotent are called again, of the others the person is asked.';
comment on column effects.state is 'intent: committed before the call; done: with its result; unknown: nobody knows whether it happened.';
comment on column effects.token is 'Lease under which it was written last.';
comment on column effects.approval_id is 'The approval that it used up; each serves once.';
comment on column effects.request is 'What was asked, enough to recognise it.';
comment on column effects.result is 'What came back.';
comment on column effects.partial is 'Text of a long turn so far.';
comment on column effects.created_at is 'Intent.';
comment on column effects.done_at is 'Result.';

create table tools (
  user_id uuid not null references users on delete cascade,
  name text not null check (name ~ '^[a-z][a-z0-9_]{0,63}$'),
  version integer not null default 1 check (version >= 1),
  description text not null check (char_length(description) <= 2000),
  input_schema jsonb not null,
  executor jsonb not null,
  effect text not null check (effect in ('read', 'idempotent', 'reversible', 'irreversible')),
  risk text not null check (risk in ('low', 'medium', 'high')),
  consent text not null check (consent in ('auto', 'ask')),
  timeout_seconds smallint not null check (timeout_seconds between 1 and 300),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  primary key (user_id, name)
);
comment on table tools is 'What a person''s agents may call.';
comment on column tools.user_id is 'Owner.';
comment on column tools.name is 'Unique among the owner''s.';
comment on column tools.version is 'Counts changes, also over a deletion; a consent holds for the version it was given for.';
comment on column tools.description is 'For the model.';
comment on column tools.input_schema is 'JSON Schema of the arguments.';
comment on column tools.executor is 'What carries it out: {kind, ...}.';
comment on column tools.effect is 'What a call does to the world.';
comment on column tools.risk is 'How bad a wrong call is; a high one is never covered by a grant.';
comment on column tools.consent is 'Whether the person is asked before each call, where no rule says otherwise.';
comment on column tools.timeout_seconds is 'Longest call.';
comment on column tools.created_at is 'Creation.';
comment on column tools.updated_at is 'Last change.';
comment on column tools.deleted_at is 'Deletion. The row stays, emptied, for its version: no consent is for another tool that takes the name.';

create table approval_policies (
  user_id uuid primary key references users on delete cascade,
  version integer not null default 1 check (version >= 1),
  rules jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table approval_policies is 'Which calls of tools run, ask or are refused: a person''s rules, the first that fits holds.';
comment on column approval_policies.user_id is 'Owner; one list each.';
comment on column approval_policies.version is 'Counts changes.';
comment on column approval_policies.rules is 'The rules in order (engine::tool::policy::Rule).';
comment on column approval_policies.created_at is 'Creation.';
comment on column approval_policies.updated_at is 'Last change.';

create table approval_grants (
  user_id uuid not null references users on delete cascade,
  id uuid not null,
  tool text not null,
  tool_version integer not null check (tool_version >= 1),
  digest text,
  uses_left integer not null check (uses_left >= 0),
  expires_at timestamptz not null,
  wait_id uuid not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  primary key (user_id, id)
);
comment on table approval_grants is 'Consent given ahead: so many calls of a tool, or of one exact call, until an instant.';
comment on column approval_grants.user_id is 'Owner.';
comment on column approval_grants.id is 'UUIDv7.';
comment on column approval_grants.tool is 'Name of the tool.';
comment on column approval_grants.tool_version is 'The version that it was given for; a changed tool asks again.';
comment on column approval_grants.digest is 'The exact call (tool, version, arguments); none: any call of the tool.';
comment on column approval_grants.uses_left is 'Counts down in the transaction that writes the intent of a call.';
comment on column approval_grants.expires_at is 'End, by the database''s clock.';
comment on column approval_grants.wait_id is 'The approval that it came with.';
comment on column approval_grants.created_at is 'Creation.';
comment on column approval_grants.revoked_at is 'Since when it is taken back.';

create table workers (
  id uuid primary key,
  places integer not null check (places > 0),
  started_at timestamptz not null,
  seen_at timestamptz not null
) with (fillfactor = 50);
comment on table workers is 'Worker processes that report: who is there to take steps. Nothing is decided by it; people are told.';
comment on column workers.id is 'New with each start.';
comment on column workers.places is 'Steps at once.';
comment on column workers.started_at is 'Start.';
comment on column workers.seen_at is 'Last report.';

create table events (
  user_id uuid not null,
  seq bigint not null check (seq > 0),
  session_id uuid,
  plan_id uuid,
  step_id uuid,
  type text not null,
  payload jsonb not null,
  created_at timestamptz not null,
  primary key (user_id, seq, created_at)
) partition by range (created_at);
-- The feed of one session.
create index events_session_idx on events (session_id, seq) where session_id is not null;
comment on table events is 'What happened, in order, each committed with its transition. No foreign keys: only transitions write here, and the rows outlive what they tell of. A partition for each week, made ahead and dropped when it is older than the retention (events_keep).';
comment on column events.user_id is 'Whose feed.';
comment on column events.seq is 'Position: 1, 2, 3 ... per user, without gaps, in the order of commits.';
comment on column events.session_id is 'Session, if any.';
comment on column events.plan_id is 'Plan, if any.';
comment on column events.step_id is 'Step, if any.';
comment on column events.type is 'Wire name.';
comment on column events.payload is 'At most 10 KB; longer things by link.';
comment on column events.created_at is 'When it was written, by the database''s clock; it decides which partition.';

create table events_default partition of events default;
comment on table events_default is 'Events of a week that nobody has made a partition for: no transition may fail for that. Empty as long as a worker or a migration runs once in a month.';
comment on column events_default.user_id is 'As in events.';
comment on column events_default.seq is 'As in events.';
comment on column events_default.session_id is 'As in events.';
comment on column events_default.plan_id is 'As in events.';
comment on column events_default.step_id is 'As in events.';
comment on column events_default.type is 'As in events.';
comment on column events_default.payload is 'As in events.';
comment on column events_default.created_at is 'As in events.';

create unlogged table stream_tickets (
  digest bytea not null,
  user_id uuid not null references users on delete cascade,
  session_id uuid,
  token_expires_at timestamptz not null,
  expires_at timestamptz not null,
  primary key (digest, user_id)
);
-- Old ones are swept out by new ones.
create index stream_tickets_expiry_idx on stream_tickets (expires_at);
comment on table stream_tickets is 'Single-use passes to a stream for browsers, whose EventSource cannot send a header. Unlogged: they live for half a minute.';
comment on column stream_tickets.digest is 'SHA-256 of the ticket; the ticket itself is known to its owner only.';
comment on column stream_tickets.user_id is 'Whose.';
comment on column stream_tickets.session_id is 'The session whose stream it opens; null: the person''s whole feed.';
comment on column stream_tickets.token_expires_at is 'When the token ends that it was bought with: the stream ends then.';
comment on column stream_tickets.expires_at is 'Until when it can be used.';

create view tasks as
  select id, user_id, session_id, agent_id, state::text as status, result, created_at from steps;
comment on view tasks is 'Read-only: the name that the product''s first design gives to steps.';
create view approval_requests as
  select id, user_id, payload ->> 'type' as type, payload, coalesce(decision::text, 'pending') as status, created_at, deadline
  from waits where kind = 'approval';
comment on view approval_requests is 'Read-only: the waits that a person decides, under the name of the product''s first design.';
