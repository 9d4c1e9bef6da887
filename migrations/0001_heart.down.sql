drop view approval_requests, tasks;
drop table stream_tickets, workers, approval_grants, approval_policies, tools, events, effects, waits, leases, ready_steps, step_edges, steps, messages, plans, chat_sessions,
  user_orchestrators, agent_versions, user_agents, user_feeds, users;
drop type wait_decision, wait_kind, failure_policy, step_join, edge_when, plan_mode, plan_state, step_state;
