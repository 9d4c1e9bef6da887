-- journal_text: the text of a long turn so far. No fence but the entry's own token: it decides nothing.
create function pg_temp.journal_text(p_user uuid, p_step uuid, p_round smallint, p_token bigint, p_ordinal integer, p_text text)
returns boolean language plpgsql as $$
begin
  update effects e set partial = p_text
    where e.user_id = p_user and e.step_id = p_step and e.round = p_round and e.ordinal = p_ordinal and e.token = p_token
      and e.state = 'intent';
  return found;
end $$;
