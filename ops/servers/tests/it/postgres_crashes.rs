//! A Postgres whose owner, supervisor, postmaster or `initdb` dies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use codelab_servers::Postgres;

use crate::owner::{Owner, spawn};
use crate::story::{eventually, folder, has_database, is_alive, kill_9, start};

#[test]
fn data_survives_a_crash_of_the_server() {
    let folder = folder();
    let mut postgres = start(folder.path());
    let url = postgres.url("kept");
    postgres.create_database("kept", None).unwrap();
    postgres.crash().unwrap();
    assert!(!postgres.is_running() && postgres.create_database("x", None).is_err());
    postgres.start_again().unwrap();
    assert!(has_database(&postgres, "kept"));
    assert_eq!(postgres.url("kept"), url);
}

#[test]
fn a_postmaster_killed_behind_our_back_is_noticed_and_started_again() {
    let folder = folder();
    let mut postgres = start(folder.path());
    postgres.create_database("kept", None).unwrap();
    kill_9(postgres.pid());
    eventually("it is noticed", || !postgres.is_running());
    postgres.start_again().unwrap();
    assert!(has_database(&postgres, "kept"));
}

#[test]
fn the_server_dies_with_its_owner() {
    let folder = folder();
    let mut owner = Owner::of("postgres", folder.path(), &[]);
    assert!(is_alive(owner.server), "{}", owner.said);
    owner.kill_9();
    eventually("the server is gone", || !is_alive(owner.server));
}

#[test]
fn a_start_right_after_the_owner_was_killed_works() {
    let folder = folder();
    let mut owner = Owner::of("postgres", folder.path(), &[]);
    owner.kill_9();
    let postgres = start(folder.path());
    assert!(!is_alive(owner.server));
    assert_ne!(postgres.pid(), owner.server);
}

#[test]
fn a_server_without_owner_and_supervisor_is_found_and_ended() {
    let folder = folder();
    let mut owner = Owner::of("postgres", folder.path(), &[]);
    let Some(supervisor) = parent_of(owner.server) else {
        return;
    };
    kill_9(supervisor);
    owner.kill_9();
    assert!(is_alive(owner.server), "nobody is left to stop it");
    let postgres = start(folder.path());
    assert!(!is_alive(owner.server));
    postgres.create_database("works", None).unwrap();
}

#[test]
fn a_stale_pid_file_does_not_stop_the_next_start() {
    let folder = folder();
    let mut owner = Owner::of("postgres", folder.path(), &[]);
    let Some(supervisor) = parent_of(owner.server) else {
        return;
    };
    for process in [supervisor, owner.server] {
        kill_9(process);
    }
    owner.kill_9();
    assert!(folder.path().join("cluster/postmaster.pid").exists());
    drop(start(folder.path()));
    assert!(!sockets(&owner).exists());
}

#[test]
fn a_stale_pid_file_with_the_number_of_a_living_stranger_is_removed() {
    let folder = folder();
    let mut postgres = start(folder.path());
    let file = folder.path().join("cluster/postmaster.pid");
    let content = fs::read_to_string(&file).unwrap();
    let stranger = content.replacen(
        &postgres.pid().to_string(),
        &std::process::id().to_string(),
        1,
    );
    postgres.crash().unwrap();
    drop(postgres);
    fs::write(&file, stranger).unwrap();
    drop(start(folder.path()));
}

#[test]
fn a_killed_initdb_does_not_poison_the_next_start() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut owner: Child = spawn("postgres", &data, &[]);
    eventually("initdb is at work", || {
        half_finished(&data).is_some_and(|unfinished| unfinished.join("base").exists())
    });
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(
        !data.join("cluster").exists(),
        "killed too late to show anything"
    );
    // What stays behind when initdb's supervisor was killed too.
    fs::create_dir_all(data.join("initdb-0/base")).unwrap();
    fs::write(data.join("initdb-0/PG_VERSION"), "15\n").unwrap();

    let postgres = start(&data);
    postgres.create_database("works", None).unwrap();
    assert!(!data.join("initdb-0").exists());
}

#[test]
fn a_throwaway_leaves_nothing_even_when_its_owner_is_killed() {
    let mut owner = Owner::of("throwaway", Path::new("/"), &[]);
    let sockets = sockets(&owner);
    assert!(sockets.exists());
    owner.kill_9();
    eventually("server and folder are gone", || {
        !is_alive(owner.server) && !sockets.exists()
    });
}

#[test]
fn one_process_may_start_and_drop_on_many_threads() {
    let start = || drop(Postgres::start_throwaway(20, Vec::new()).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(start);
        }
    });
}

fn sockets(owner: &Owner) -> PathBuf {
    PathBuf::from(owner.said.split(['=', '&']).nth(1).unwrap())
}

fn half_finished(data: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(data).ok()?.flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with("initdb-"));
    Some(entry?.path())
}

/// The parent of a process; None where there is no `/proc`.
fn parent_of(number: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
