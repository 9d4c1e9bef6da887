//! How much of everything: a minute, some minutes, or as long as wanted.

use std::time::Duration;

/// The size of a run, and what it must have seen in order to mean anything.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// How long people work before the first blow.
    pub calm: Duration,
    /// How long the nemesis strikes.
    pub chaos: Duration,
    /// How long all work may take to end after that.
    pub drain: Duration,
    /// People.
    pub people: usize,
    /// Plans of each.
    pub plans: usize,
    /// Worker processes.
    pub workers: usize,
    /// Seconds of a lease.
    pub lease: u64,
    /// No NOTIFY ever arrives: hints wake, and nothing may hang on them.
    pub deaf: bool,
    /// Steps that kill their worker.
    pub poison: usize,
    /// What must have happened at least so often.
    pub least: Least,
}

/// Minimum counts: no run passes because nothing happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Least {
    /// Steps that lost their worker and ran again.
    pub takeovers: usize,
    /// Outcomes that came too late and were refused.
    pub fenced: usize,
    /// Steps that were tried again because of their provider.
    pub retries: usize,
    /// Streams that were taken up again.
    pub resumed: usize,
    /// Replies of commits that were lost.
    pub stolen: u64,
    /// Steps that ended as poison.
    pub poison: usize,
    /// Cancels that were taken.
    pub cancels: usize,
    /// Questions that were answered.
    pub decisions: usize,
}

/// The profile of this name.
pub fn named(name: &str) -> Option<Profile> {
    let smoke = Profile {
        name: "smoke",
        calm: Duration::from_secs(2),
        chaos: Duration::from_secs(20),
        // A step that has had many runs waits for up to a minute until the next.
        drain: Duration::from_secs(100),
        people: 3,
        plans: 16,
        workers: 2,
        lease: 3,
        deaf: false,
        poison: 2,
        least: Least {
            takeovers: 1,
            fenced: 1,
            retries: 1,
            resumed: 2,
            stolen: 1,
            poison: 1,
            cancels: 1,
            decisions: 1,
        },
    };
    match name {
        "smoke" => Some(smoke),
        "ci" => Some(Profile {
            name: "ci",
            chaos: Duration::from_secs(45),
            plans: 45,
            least: Least {
                takeovers: 5,
                fenced: 2,
                retries: 5,
                resumed: 10,
                stolen: 2,
                poison: 1,
                cancels: 3,
                decisions: 5,
            },
            ..smoke
        }),
        "soak" => Some(Profile {
            name: "soak",
            chaos: Duration::from_mins(5),
            drain: Duration::from_mins(2),
            people: 4,
            plans: 220,
            workers: 3,
            poison: 3,
            least: Least {
                takeovers: 30,
                fenced: 10,
                retries: 30,
                resumed: 60,
                stolen: 10,
                poison: 3,
                cancels: 20,
                decisions: 40,
            },
            ..smoke
        }),
        // Short and without ornament: enough to notice a mutant.
        "hunt" => Some(Profile {
            name: "hunt",
            calm: Duration::from_secs(6),
            chaos: Duration::from_secs(10),
            drain: Duration::from_secs(25),
            people: 2,
            plans: 16,
            least: Least::default(),
            ..smoke
        }),
        _ => None,
    }
}
