//! Faults on purpose, for the chaos harness: places where a process may be told to die, and ways to break the SQL that the
//! checkers have to notice. Compiled in with the feature `faults` only; without it every call here is nothing.
//!
//! | variable | does |
//! |---|---|
//! | `CODELAB_CRASH=name:k` | the process aborts when it comes to the point `name` for the k-th time (k from 1) |
//! | `CODELAB_CRASH_TRACE=file` | appends the name of every point that is passed, one a line |
//! | `CODELAB_MUTANT=name` | a deliberate breakage in Rust is on ([`mutant`]) |
//! | `CODELAB_MUTATE_SQL=file` | a JSON list of `[from, to]`: each `from` in the text of the transitions becomes `to` |

/// A place just before or after something that another process can see. Each await that crosses a process boundary has one on
/// either side.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn point(_name: &'static str) {}

/// Whether a deliberate breakage is on.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn mutant(_name: &'static str) -> bool {
    false
}

#[cfg(feature = "faults")]
pub use on::{mutant, mutated, point};

#[cfg(feature = "faults")]
mod on {
    use std::{
        collections::HashMap,
        env,
        fs::{self, OpenOptions},
        io::Write,
        sync::{LazyLock, Mutex, PoisonError},
    };

    static CRASH: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = env::var("CODELAB_CRASH").ok()?;
        let (name, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    });
    static TRACE: LazyLock<Option<Mutex<fs::File>>> = LazyLock::new(|| {
        let path = env::var_os("CODELAB_CRASH_TRACE")?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.ok().map(Mutex::new)
    });
    static PASSED: LazyLock<Mutex<HashMap<&'static str, u64>>> = LazyLock::new(Mutex::default);
    static MUTANT: LazyLock<Option<String>> = LazyLock::new(|| env::var("CODELAB_MUTANT").ok());

    /// A place just before or after something that another process can see.
    pub fn point(name: &'static str) {
        if let Some(trace) = &*TRACE {
            let mut file = trace.lock().unwrap_or_else(PoisonError::into_inner);
            // A trace that cannot be written shows as points that were never passed.
            let _ = writeln!(file, "{name}");
        }
        let Some((wanted, count)) = &*CRASH else {
            return;
        };
        if wanted != name {
            return;
        }
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let times = passed.entry(name).or_default();
        *times += 1;
        if *times == *count {
            // No destructor runs, no buffer is flushed: as near to a SIGKILL as a process can come by itself.
            std::process::abort();
        }
    }

    /// Whether a deliberate breakage is on.
    pub fn mutant(name: &'static str) -> bool {
        MUTANT.as_deref() == Some(name)
    }

    /// The transitions, broken as the environment says.
    ///
    /// # Panics
    ///
    /// When the file cannot be read or a text to replace is not there: a mutant that changes nothing proves nothing.
    #[expect(clippy::panic, reason = "only in processes that are made to be broken")]
    pub fn mutated(source: &str) -> String {
        let Some(path) = env::var_os("CODELAB_MUTATE_SQL") else {
            return source.to_owned();
        };
        let pairs: Vec<(String, String)> = fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_else(|| panic!("CODELAB_MUTATE_SQL is no list of pairs"));
        pairs.iter().fold(source.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "the mutant changes nothing: {from}");
            text.replace(from, to)
        })
    }
}
