-- edge_met: whether an edge counts as met, by how the needed step ended. One rule for all transitions; inlined.
create function pg_temp.edge_met(p_when edge_when, p_state step_state, p_waived boolean) returns boolean language sql immutable as
  $$ select p_when = 'done' or (p_when = 'success' and (p_state = 'succeeded' or p_waived)) or (p_when = 'failure' and p_state = 'failed') $$;
