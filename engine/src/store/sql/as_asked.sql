-- as_asked: whether the tool and the agent that a question names are still of the versions that it was asked about.
create function pg_temp.as_asked(p_user uuid, p_step uuid, p_payload jsonb) returns boolean language sql stable as $$
  select (not p_payload ? 'tool_version' or exists (
           select 1 from tools t
           where t.user_id = p_user and t.name = p_payload ->> 'tool' and t.deleted_at is null
             and t.version = (p_payload ->> 'tool_version')::integer))
     and (coalesce(p_payload -> 'agent_version', 'null') = 'null' or exists (
           select 1 from steps s join user_agents a on a.user_id = s.user_id and a.id = s.agent_id and a.deleted_at is null
           where s.user_id = p_user and s.id = p_step and a.version = (p_payload ->> 'agent_version')::integer)) $$;
