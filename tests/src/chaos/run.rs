//! A run: people at work while the nemesis strikes, then healing, the end of all work, and the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    checks,
    client::Client,
    evidence::{Evidence, Rows},
    faults::{PROCESSES, SURROUNDINGS, TOOLS},
    history::History,
    liveness,
    nemesis::{Deeds, crew, undertaker},
    person::Person,
    profile::Profile,
    program::{PEOPLE, Program, Recipe, draw},
    report::Report,
    stage::{Cluster, Setting, Stage},
    stream::Watcher,
};

/// Longest wait until every stream has everything.
const CATCH_UP: Duration = Duration::from_secs(30);

/// A breakage that a run has to notice.
#[derive(Debug, Clone, Default)]
pub struct Breakage {
    /// Variables of the processes.
    pub variables: Vec<(String, String)>,
    /// Statements that make room for it in the schema.
    pub schema: Vec<String>,
}

/// Carries out one seed. The report says what was wrong.
pub async fn run(cluster: &Cluster, profile: &Profile, seed: u64, breakage: &Breakage) -> Report {
    let begun = Clock::now();
    let setting = Setting {
        workers: profile.workers,
        lease: profile.lease,
        variables: breakage.variables.clone(),
        schema: [
            if profile.deaf { deafness() } else { Vec::new() },
            breakage.schema.clone(),
        ]
        .concat(),
    };
    let stage = Arc::new(Stage::set(cluster, &setting).await);
    let deeds = Arc::new(Deeds::default());
    let scene = Scene::open(Arc::clone(&stage), Arc::clone(&deeds), profile, seed).await;
    let mut report = scene.play(profile, seed).await;
    profile.name.clone_into(&mut report.profile);
    report.seed = seed;
    report.deaf = profile.deaf;
    report.seconds = begun.elapsed().as_secs();
    if let Some(stage) = Arc::into_inner(stage)
        && !report.violations.is_empty()
    {
        let kept = stage.keep();
        report.violations.push(format!(
            "the logs and the evidence are in {}",
            kept.display()
        ));
    }
    report
}

/// Hides Postgres' own function behind one that does nothing, from the connections of this database.
fn deafness() -> Vec<String> {
    [
        "create function public.pg_notify(text, text) returns void language sql as ''",
        "do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$",
    ]
    .map(str::to_owned)
    .into()
}

/// Everything that goes on during a run.
struct Scene {
    stage: Arc<Stage>,
    deeds: Arc<Deeds>,
    history: History,
    programs: Vec<Program>,
    people: Vec<(Arc<Person>, String)>,
    watchers: Vec<Watcher>,
    watching: JoinSet<()>,
    /// Answers questions, buries the dead: until all work has ended.
    attending: JoinSet<()>,
    stop: CancellationToken,
}

impl Scene {
    async fn open(stage: Arc<Stage>, deeds: Arc<Deeds>, profile: &Profile, seed: u64) -> Self {
        let history = History::default();
        let recipe = Recipe {
            seed,
            people: profile.people,
            plans: profile.plans,
            over: profile.calm + profile.chaos,
            poison: profile.poison,
        };
        let mut scene = Self {
            stage,
            deeds,
            history,
            programs: draw(&recipe),
            people: Vec::new(),
            watchers: Vec::new(),
            watching: JoinSet::new(),
            attending: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        for number in 0..profile.people {
            scene.enter(number, &mut rng).await;
        }
        let stage = Arc::clone(&scene.stage);
        let buried = undertaker(stage, Arc::clone(&scene.deeds), scene.stop.clone());
        scene.attending.spawn(buried);
        scene
    }

    /// A person comes in, with two streams open: one reads at once, the other takes its time.
    async fn enter(&mut self, number: usize, rng: &mut fastrand::Rng) {
        let client = Client::new(&self.stage.base, number, &self.history);
        let tools = format!("http://{}", self.stage.edges.tools.address());
        let person = Person::new(client.clone(), &self.history, &self.stage, &tools);
        let session = person.settle_in().await;
        let person = Arc::new(person);
        self.people.push((Arc::clone(&person), session));
        for slow in [false, true] {
            let watcher = Watcher::new(client.clone());
            self.watching.spawn(
                watcher
                    .clone()
                    .run(slow, fastrand::Rng::with_seed(rng.u64(..))),
            );
            self.watchers.push(watcher);
        }
        let inbox = person.answer(fastrand::Rng::with_seed(rng.u64(..)), self.stop.clone());
        self.attending.spawn(inbox);
    }

    async fn play(mut self, profile: &Profile, seed: u64) -> Report {
        self.chaos(profile, seed).await;
        self.stage.heal().await;
        let mut ended = liveness::all_ends(&self.stage, profile.drain).await;
        if let Err(why) = &mut ended {
            why.push_str(&self.explained().await);
        }
        let caught_up = self.everybody_catches_up().await;
        self.stop.cancel();
        while self.attending.join_next().await.is_some() {}
        self.watching.shutdown().await;
        for slot in self.stage.all() {
            slot.drain().await;
        }
        let mut report = match self.evidence().await {
            Ok(evidence) => {
                let mut report = Report::of(&evidence, &self.deeds);
                report.violations = checks::all(&evidence);
                report.violations.extend(report.too_little(&profile.least));
                if !report.violations.is_empty()
                    && let Err(error) = evidence.save(self.stage.folder())
                {
                    tracing::warn!(%error, "the evidence could not be kept");
                }
                report
            }
            Err(error) => Report {
                violations: vec![format!("the rows cannot be read: {error}")],
                ..Report::default()
            },
        };
        report.violations.extend(caught_up.err());
        match ended {
            Ok(took) => report.drained_ms = took.as_millis(),
            Err(why) => report.violations.push(why),
        }
        report
    }

    /// What the service itself says of plans that have not ended.
    async fn explained(&self) -> String {
        let open: Vec<(String, Uuid)> = sqlx::query_as(
            "select u.subject, p.id from plans p join users u on u.id = p.user_id where p.state = 'active' limit 5",
        )
        .fetch_all(&self.stage.direct)
        .await
        .unwrap_or_default();
        let mut text = String::new();
        for (subject, plan) in open {
            let number = PEOPLE.iter().position(|(name, _)| *name == subject);
            let client = Client::new(&self.stage.base, number.unwrap_or(0), &self.history);
            let why = client.get(&format!("plans/{plan}/explain/")).await;
            text.extend([format!("explain {plan}: {}\n", why.unwrap_or_default())]);
        }
        text
    }

    /// Work and blows, until the blows have ended and all plans are sent and steered.
    async fn chaos(&self, profile: &Profile, seed: u64) {
        let begun = Instant::now();
        let from = begun + profile.calm;
        let mut work = JoinSet::new();
        for (number, (person, session)) in self.people.iter().enumerate() {
            let own = self
                .programs
                .iter()
                .filter(|program| program.person == number)
                .cloned()
                .collect();
            work.spawn(Arc::clone(person).work(own, session.clone(), begun));
        }
        let mut crews = JoinSet::new();
        let decks = [PROCESSES, SURROUNDINGS, TOOLS];
        for (number, deck) in decks.into_iter().enumerate() {
            let rng = fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(number as u64));
            let (stage, deeds) = (Arc::clone(&self.stage), Arc::clone(&self.deeds));
            crews.spawn(crew(stage, deeds, deck, rng, from..from + profile.chaos));
        }
        while crews.join_next().await.is_some() {}
        self.stage.heal().await;
        while work.join_next().await.is_some() {}
    }

    async fn everybody_catches_up(&self) -> Result<(), String> {
        let feeds: Vec<(String, i64)> = sqlx::query_as(
            "select u.subject, f.last_seq from users u join user_feeds f on f.user_id = u.id",
        )
        .fetch_all(&self.stage.direct)
        .await
        .map_err(|error| format!("the feeds cannot be read: {error}"))?;
        let last = |number: usize| {
            let name = PEOPLE[number].0;
            let feed = feeds.iter().find(|(subject, _)| subject == name);
            feed.map_or(0, |(_, last)| *last)
        };
        self.watchers.iter().for_each(Watcher::hurry);
        let all = async {
            for watcher in &self.watchers {
                while watcher.cursor() < last(watcher.person()) {
                    sleep(Duration::from_millis(20)).await;
                }
            }
        };
        timeout(CATCH_UP, all)
            .await
            .map_err(|_| format!("I12: a stream did not have everything after {CATCH_UP:?}"))
    }

    async fn evidence(&self) -> Result<Evidence, sqlx::Error> {
        let stage = &self.stage;
        Ok(Evidence {
            programs: self.programs.clone(),
            written: self.history.read(),
            receipts: stage.book.all(),
            transcripts: self.watchers.iter().map(Watcher::transcript).collect(),
            blows: self.deeds.blows(),
            kills: self.deeds.kills(),
            surprises: stage.all().flat_map(super::slot::Slot::surprises).collect(),
            logs: stage
                .all()
                .map(|slot| (slot.name.clone(), slot.said()))
                .collect(),
            stolen: stage.edges.stolen(),
            lease: stage.lease,
            rows: Rows::read(&stage.direct).await?,
        })
    }
}
