//! Liveness: once everything works again, all work ends within a bound; otherwise what it hangs on is written down.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::time::sleep;

use super::stage::Stage;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until no step is open. Else: what is open, and why nothing moves.
pub async fn all_ends(stage: &Stage, limit: Duration) -> Result<Duration, String> {
    let begun = Instant::now();
    loop {
        let open = open_steps(&stage.direct).await;
        if open == Some(0) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > limit {
            let dump = dump(&stage.direct).await;
            return Err(format!(
                "I2: {open:?} steps are still open {limit:?} after everything was healed\n{dump}"
            ));
        }
        sleep(LOOK).await;
    }
}

/// Steps that have not ended; none while the database does not answer.
pub async fn open_steps(pool: &PgPool) -> Option<i64> {
    sqlx::query_scalar("select count(*) from steps where finished_at is null")
        .fetch_one(pool)
        .await
        .ok()
}

/// What a person needs who has to find out why nothing moves.
pub async fn dump(pool: &PgPool) -> String {
    let queries = [
        ("steps", "select row_to_json(t)::text from (select s.id, s.key, s.kind, s.state, s.token, s.failures, s.waiting_for, p.goal, p.state as plan,
           p.cancel_requested_at, r.placed, r.due_at, r.rank, l.worker_id, l.expires_at, w.kind as wait, w.deadline
           from steps s join plans p on p.user_id = s.user_id and p.id = s.plan_id
           left join ready_steps r on r.user_id = s.user_id and r.step_id = s.id
           left join leases l on l.user_id = s.user_id and l.step_id = s.id
           left join waits w on w.user_id = s.user_id and w.step_id = s.id and w.decision is null
           where s.finished_at is null order by s.id limit 30) t"),
        ("agents", "select row_to_json(t)::text from (select id, name, max_concurrency, places, running_steps from user_agents) t"),
        ("activity", "select row_to_json(t)::text from (select pid, application_name, state, wait_event_type, wait_event, now() - xact_start as open,
           left(query, 120) as query from pg_stat_activity where datname = current_database() and state <> 'idle') t"),
        ("locks", "select row_to_json(t)::text from (select pid, locktype, relation::regclass, mode, granted from pg_locks where not granted) t"),
    ];
    let mut text = String::new();
    for (name, query) in queries {
        let rows: Result<Vec<String>, _> = sqlx::query_scalar(query).fetch_all(pool).await;
        let rows = rows.unwrap_or_else(|error| vec![error.to_string()]);
        text.extend([name, ":\n"]);
        text.extend(rows.iter().map(|row| format!("  {row}\n")));
    }
    text
}
