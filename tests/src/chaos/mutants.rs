//! The harness proves itself: deliberate breakages, each of which a run has to notice. A mutant that lives is a hole in the checkers.

use std::time::Instant;

use serde::Serialize;

use super::{
    profile::Profile,
    run::{Breakage, run},
    stage::Cluster,
    zombies,
};

/// Seeds that are tried before a mutant counts as alive.
const SEEDS: u64 = 3;

/// How something is broken.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Texts of the transitions, replaced.
    Sql(&'static [(&'static str, &'static str)]),
    /// A breakage that the program knows by its name.
    Rust,
}

/// What has to notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum By {
    /// A run against processes.
    Run,
    /// The same, with every NOTIFY lost.
    DeafRun,
    /// The hunt in this process.
    Zombies,
}

/// A deliberate breakage.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    how: How,
    by: By,
    /// What has to give way in the schema.
    schema: &'static [&'static str],
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "finish_without_token",
        by: By::Zombies,
        how: How::Sql(&[(
            " and l.token = g.token\n        and (g.outcome",
            "\n        and (g.outcome",
        )]),
        schema: &[],
    },
    Mutant {
        name: "finish_by_worker_name",
        by: By::Zombies,
        how: How::Sql(&[(
            " and l.token = g.token\n        and (g.outcome",
            " and (g.outcome = 'lost' or l.worker_id = p_worker)\n        and (g.outcome",
        )]),
        schema: &[],
    },
    Mutant {
        name: "place_released_without_lease",
        by: By::Run,
        how: How::Sql(&[(
            "    if cardinality(v_moved) < cardinality(p_steps) then\n",
            "    if cardinality(v_moved) < cardinality(p_steps) then
      update user_agents a set running_steps = greatest(a.running_steps - 1, 0)
      from unnest(p_users, p_steps) g(user_id, id) join steps s on s.user_id = g.user_id and s.id = g.id
      where a.user_id = s.user_id and a.id = s.agent_id;\n",
        )]),
        schema: &[],
    },
    Mutant {
        name: "limit_not_looked_at",
        by: By::Run,
        how: How::Sql(&[
            ("r.agent_id is null or r.place <= r.agent_room", "true"),
            ("r.kept + least(r.wanting, r.room)", "r.kept + r.wanting"),
        ]),
        schema: &[
            "alter table user_agents drop constraint user_agents_limit_check",
            "alter table user_agents drop constraint user_agents_places_check",
        ],
    },
    Mutant {
        name: "sequence_of_its_own",
        by: By::Run,
        how: How::Sql(&[(
            "f.last_seq - count(*) over (partition by d.user_id) + row_number() over (partition by d.user_id order by d.n)",
            "nextval('chaos_seq')",
        )]),
        schema: &["create sequence chaos_seq"],
    },
    Mutant {
        name: "deadline_not_looked_at",
        by: By::Run,
        how: How::Sql(&[("then w.deadline <= v_now else", "then false else")]),
        schema: &[],
    },
    Mutant {
        name: "deadlines_in_memory",
        by: By::Run,
        how: How::Rust,
        schema: &[],
    },
    Mutant {
        name: "repeat_all_effects",
        by: By::Run,
        how: How::Rust,
        schema: &[],
    },
    Mutant {
        name: "hints_trusted",
        by: By::DeafRun,
        how: How::Rust,
        schema: &[],
    },
    Mutant {
        name: "intent_not_written",
        by: By::Run,
        how: How::Sql(&[("from given g where g.state <> 'withdrawn'", "from given g where g.state not in ('withdrawn', 'intent')")]),
        schema: &[],
    },
    Mutant {
        name: "loss_not_counted",
        by: By::Run,
        how: How::Sql(&[
            (
                "d.outcome in ('retry', 'lost', 'fail') then 1",
                "d.outcome in ('retry', 'fail') then 1",
            ),
            (
                "when s.failures + 1 >= s.max_failures then",
                "when g.outcome <> 'lost' and s.failures + 1 >= s.max_failures then",
            ),
        ]),
        schema: &[],
    },
    Mutant {
        name: "event_left_out",
        by: By::Run,
        how: How::Sql(&[("v_drafts := v_drafts || v_hear.drafts;", "")]),
        schema: &[],
    },
    Mutant {
        name: "missed_need_ignored",
        by: By::Run,
        how: How::Sql(&[
            (
                "case when e.missed > 0 then s.waiting_for else s.waiting_for - e.met end",
                "s.waiting_for - e.met - e.missed",
            ),
            (
                "case when e.missed > 0 then 'skipped' when s.waiting_for = e.met then",
                "case when s.waiting_for = e.met + e.missed then",
            ),
            ("(s.joins = 'all' and e.missed > 0) or ", ""),
        ]),
        schema: &[],
    },
    Mutant {
        name: "cancel_forgotten_by_the_finish",
        by: By::Run,
        how: How::Sql(&[(
            "when p.cancel_requested_at is not null or s.id = any (p.cancelling_steps) then 'cancelled'",
            "when false then 'cancelled'",
        )]),
        schema: &[],
    },
    Mutant {
        name: "consent_not_asked",
        by: By::Run,
        how: How::Rust,
        schema: &[],
    },
    Mutant {
        name: "renewal_renews_nothing",
        by: By::Run,
        how: How::Sql(&[(
            "expires_at = least(v_now + p_lease, l.run_until)",
            "expires_at = l.expires_at",
        )]),
        schema: &[],
    },
];

/// What became of a mutant.
#[derive(Debug, Clone, Serialize)]
pub struct Hunted {
    /// Its name.
    pub mutant: &'static str,
    /// What hunted it.
    by: By,
    /// The first thing that was wrong; none: it lives.
    pub caught_by: Option<String>,
    /// How many things were.
    pub violations: usize,
    /// Until then.
    pub seconds: u64,
    /// Seeds that it took.
    pub seeds: u64,
}

/// Hunts a mutant.
pub async fn hunt(cluster: &Cluster, profile: &Profile, mutant: &Mutant) -> Hunted {
    let begun = Instant::now();
    let profile = &Profile {
        deaf: mutant.by == By::DeafRun,
        ..profile.clone()
    };
    if mutant.by == By::Zombies {
        return mutant.among_zombies(cluster).await;
    }
    let folder = tempfile::tempdir().ok();
    let breakage = mutant.breakage(folder.as_ref().map(tempfile::TempDir::path));
    for seed in 1..=SEEDS {
        let report = run(cluster, profile, seed, &breakage).await;
        if let Some(first) = report.violations.first() {
            return Hunted {
                mutant: mutant.name,
                by: mutant.by,
                caught_by: Some(first.lines().next().unwrap_or_default().to_owned()),
                violations: report.violations.len(),
                seconds: begun.elapsed().as_secs(),
                seeds: seed,
            };
        }
    }
    Hunted {
        mutant: mutant.name,
        by: mutant.by,
        caught_by: None,
        violations: 0,
        seconds: begun.elapsed().as_secs(),
        seeds: SEEDS,
    }
}

impl Mutant {
    async fn among_zombies(&self, cluster: &Cluster) -> Hunted {
        let begun = Instant::now();
        let (_, url) = cluster.database().await;
        let mut source = engine::store::transitions().to_owned();
        if let How::Sql(pairs) = self.how {
            for (from, to) in pairs {
                source = source.replace(from, to);
            }
        }
        let wrong = match zombies::hunt(&url, source).await {
            Ok(wrong) => wrong.into_iter().next(),
            Err(error) => Some(error.to_string()),
        };
        Hunted {
            mutant: self.name,
            by: self.by,
            violations: usize::from(wrong.is_some()),
            caught_by: wrong,
            seconds: begun.elapsed().as_secs(),
            seeds: 1,
        }
    }

    /// What makes processes do it; SQL goes into a file of the folder.
    pub fn breakage(&self, folder: Option<&std::path::Path>) -> Breakage {
        let variable = match (self.how, folder) {
            (How::Rust, _) => ("CODELAB_MUTANT".to_owned(), self.name.to_owned()),
            (How::Sql(pairs), Some(folder)) => {
                let file = folder.join(format!("{}.json", self.name));
                let text = serde_json::to_vec(pairs).unwrap_or_default();
                // Processes that cannot read it do not start: nobody takes that for a sound run.
                let _ = std::fs::write(&file, text);
                (
                    "CODELAB_MUTATE_SQL".to_owned(),
                    file.to_string_lossy().into_owned(),
                )
            }
            (How::Sql(_), None) => ("CODELAB_MUTATE_SQL".to_owned(), String::new()),
        };
        Breakage {
            variables: vec![variable],
            schema: self.schema.iter().map(|one| (*one).to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_fits_the_transitions() {
        let source = engine::store::transitions();
        for mutant in MUTANTS {
            if let How::Sql(pairs) = mutant.how {
                for (from, _) in pairs {
                    assert!(source.contains(from), "{}: {from}", mutant.name);
                }
            }
        }
    }
}
