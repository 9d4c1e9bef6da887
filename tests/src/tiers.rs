//! An API process and a worker process over one database, as a deployment runs them.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    person::{Person, SECRET},
    process::{Codelab, complaints},
};

/// `codelab api`, `codelab worker`, and somebody who uses them.
#[derive(Debug)]
pub struct Tiers {
    /// Somebody.
    pub ada: Person,
    api: Codelab,
    worker: Codelab,
    _folder: TempDir,
}

impl Tiers {
    /// Starts both on this database, with these further variables. The worker says only what is wrong.
    pub async fn start(database_url: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut all = vec![
            ("DATABASE_URL", database_url),
            ("CODELAB_JWT_SECRET", SECRET),
            ("CODELAB_LOG", "info"),
        ];
        all.extend(variables);
        let mut api =
            Codelab::start(&["api", "--listen", "127.0.0.1:0"], &all, folder.path()).await;
        all.push(("CODELAB_LOG", "warn"));
        let worker = Codelab::start(&["worker"], &all, folder.path()).await;
        let line = api.says("the API listens").await;
        let (_, address) = line.split_once("address=").expect("it says where");
        let ada = Person::new(&format!("http://{}", address.trim()), "ada");
        Self {
            ada,
            api,
            worker,
            _folder: folder,
        }
    }

    /// Stops both in order, which they must have lived to see; what the API and the worker said.
    pub async fn stop(self) -> (String, String) {
        let mut said = Vec::new();
        for process in [self.worker, self.api] {
            process.signal(Signal::SIGTERM);
            let (status, words) = process.ends().await;
            assert_eq!(status.code(), Some(0), "{words}");
            said.push(words);
        }
        let api = said.pop().unwrap_or_default();
        (api, said.pop().unwrap_or_default())
    }

    /// Stops both, which must have had nothing to complain of.
    pub async fn stop_content(self) {
        let (api, worker) = self.stop().await;
        let complaints = [complaints(&api), complaints(&worker)].concat();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}
