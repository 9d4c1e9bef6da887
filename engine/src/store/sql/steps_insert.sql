-- steps_insert: adds steps and edges to a plan that the caller has locked or just inserted.
-- Steps come as [{id, key, kind, agent_id, spec, max_failures, timeout_ms, retry_for_ms, joins, needs: [{id, when}]}]; `p_hold` is
-- added to what the first steps wait for (1: the session's turn). Children name the step that made them (p_parent) and how
-- often work was delegated on the way to them (p_depth). Returns the steps that are ready at once.
create function pg_temp.steps_insert(
  p_user uuid, p_plan uuid, p_session uuid, p_parent uuid, p_depth smallint, p_base integer, p_hold integer, p_steps jsonb,
  p_now timestamptz)
returns uuid[] language plpgsql as $$
declare
  v_ready uuid[];
begin
  with given as (
    select s.*, coalesce(jsonb_array_length(s.needs), 0) as needed
    from rows from (jsonb_to_recordset(p_steps) as
           (id uuid, key text, kind text, agent_id uuid, spec jsonb, max_failures smallint, timeout_ms bigint, retry_for_ms bigint,
            joins step_join, needs jsonb))
         with ordinality as s(id, key, kind, agent_id, spec, max_failures, timeout_ms, retry_for_ms, joins, needs, n)),
  added as (
    insert into steps (user_id, id, plan_id, session_id, agent_id, parent_id, depth, position, key, kind, spec, joins, state,
                       waiting_for, max_failures, timeout_ms, retry_for_ms, created_at)
    select p_user, g.id, p_plan, p_session, g.agent_id, p_parent, p_depth, p_base + g.n - 1, g.key, g.kind, g.spec,
           coalesce(g.joins, 'all'),
           case when g.needed + (case when g.needed = 0 then p_hold else 0 end) > 0 then 'blocked' else 'ready' end::step_state,
           g.needed + (case when g.needed = 0 then p_hold else 0 end),
           coalesce(g.max_failures, 3), g.timeout_ms, g.retry_for_ms, p_now
    from given g
    returning id, state)
  select array_agg(a.id) filter (where a.state = 'ready') into v_ready from added a;
  insert into step_edges (user_id, step_id, needs_step_id, met_when)
  select p_user, (s.value ->> 'id')::uuid, (e.value ->> 'id')::uuid, (e.value ->> 'when')::edge_when
  from jsonb_array_elements(p_steps) s
  cross join lateral jsonb_array_elements(s.value -> 'needs') e
  where jsonb_array_length(s.value -> 'needs') > 0;
  return coalesce(v_ready, '{}');
end $$;
