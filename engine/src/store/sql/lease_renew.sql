-- lease_renew: extends the leases of running steps (p_lease null: only looks), and tells which of them are still held and which
-- want to be cancelled. Rows that a finish holds at this moment are skipped: they need no renewal. No renewal goes beyond a run's end.
create function pg_temp.lease_renew(p_users uuid[], p_steps uuid[], p_tokens bigint[], p_lease interval, p_clock timestamptz)
returns table (user_id uuid, id uuid, token bigint, cancelling boolean) language plpgsql as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
begin
  if p_lease is not null then
    update leases l set expires_at = least(v_now + p_lease, l.run_until)
      where l.ctid = any (array(
        select k.ctid from unnest(p_users, p_steps, p_tokens) g(user_id, id, token)
        join leases k on k.user_id = g.user_id and k.step_id = g.id and k.token = g.token
        for update of k skip locked));
  end if;
  return query
    select l.user_id, l.step_id, l.token, p.cancel_requested_at is not null or coalesce(s.id = any (p.cancelling_steps), false)
    from unnest(p_users, p_steps, p_tokens) g(user_id, id, token)
    join leases l on l.user_id = g.user_id and l.step_id = g.id and l.token = g.token
    join steps s on s.user_id = l.user_id and s.id = l.step_id
    join plans p on p.user_id = s.user_id and p.id = s.plan_id;
end $$;
