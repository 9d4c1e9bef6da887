-- types: the rows that the transitions hand to each other. Temporary, like the transitions
-- themselves: they belong to the program that runs, not to the schema (ops/decisions/0002).
create type pg_temp.draft as (user_id uuid, session_id uuid, plan_id uuid, step_id uuid, type text, payload jsonb);
create type pg_temp.moved as (
  n integer, user_id uuid, plan_id uuid, session_id uuid, id uuid, agent_id uuid, key text, kind text,
  state step_state, attempt smallint, outcome text, parent_id uuid, depth smallint, round smallint, policy failure_policy);
create type pg_temp.claimed as (
  verdict text, user_id uuid, id uuid, plan_id uuid, session_id uuid, agent_id uuid,
  key text, kind text, spec jsonb, token bigint, attempt smallint, cancelling boolean, round smallint, depth smallint, woken jsonb,
  failures smallint, failing_ms bigint);
-- How long things may last: a lease, a run, all runs of a step, passing trouble, a card's deadline.
create type pg_temp.limits as (lease interval, run interval, step interval, patience interval, card interval);
