-- events_keep: partitions of the feed. Makes those of this week and of the weeks ahead, and drops those of which every event
-- is older than p_keep. Whoever comes while another is at it has nothing to do. A new partition is made by itself and
-- attached, which writers do not feel. A drop locks the whole table for a moment: rather than to have writers queue behind
-- it, it gives up after a fifth of a second, and the next round tries again.
create function pg_temp.events_keep(p_ahead integer, p_keep interval, p_clock timestamptz, out made integer, out dropped integer)
language plpgsql as $$
declare
  v_now timestamptz := coalesce(p_clock, clock_timestamp());
  v_week timestamptz;
  v_name text;
  v_old record;
begin
  made := 0;
  dropped := 0;
  if not pg_try_advisory_xact_lock(hashtextextended('codelab events_keep', 0)) then return; end if;
  perform set_config('lock_timeout', '200ms', true);
  for i in 0..p_ahead loop
    v_week := date_trunc('week', v_now, 'UTC') + i * interval '7 days';
    v_name := 'events_' || to_char(v_week at time zone 'UTC', 'IYYY"w"IW');
    -- A week that has begun without a partition stays in the default one.
    continue when to_regclass(v_name) is not null
      or exists (select 1 from events_default d where d.created_at >= v_week and d.created_at < v_week + interval '7 days');
    execute format('create table %I (like events including defaults including constraints including storage including comments)
                    with (autovacuum_vacuum_insert_scale_factor = 0.5)', v_name);
    execute format('comment on table %I is %L', v_name, 'Events of a week; see events.');
    execute format('alter table events attach partition %I for values from (%L) to (%L)', v_name, v_week, v_week + interval '7 days');
    made := made + 1;
  end loop;
  for v_old in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'events'::regclass and c.relname ~ '^events_\d{4}w\d{2}$'
      and to_date(substr(c.relname, 8), 'IYYY"w"IW') + 7 <= (v_now - p_keep) at time zone 'UTC'
  loop
    begin
      execute format('drop table %I', v_old.relname);
      dropped := dropped + 1;
    exception when lock_not_available then
      null;
    end;
  end loop;
  delete from events_default d where d.ctid = any (array(
    select o.ctid from events_default o where o.created_at < v_now - p_keep limit 10000));
end $$;
