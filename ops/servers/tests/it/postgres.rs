//! A Postgres in ordinary life.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use codelab_servers::{Postgres, PostgresOptions, ServersError};
use nix::unistd::{Uid, getpgid};

use crate::owner::Owner;
use crate::story::{careless, folder, has_database, is_alive, pid, start};

#[test]
fn starts_answers_stops_and_starts_again() {
    let folder = folder();
    let begin = Instant::now();
    let mut postgres = start(&folder.path().join("new/data"));
    let first = begin.elapsed();
    let (number, url) = (postgres.pid(), postgres.url("kept"));
    postgres.create_database("kept", None).unwrap();
    postgres
        .create_database("kept", None)
        .expect("a second time it is there already");
    assert_ne!(
        getpgid(Some(pid(number))),
        getpgid(None),
        "Ctrl-C must not reach it"
    );

    let begin = Instant::now();
    postgres.stop().unwrap();
    let stop = begin.elapsed();
    assert!(!is_alive(number) && !postgres.is_running());

    let begin = Instant::now();
    postgres.start_again().unwrap();
    let later = begin.elapsed();
    assert!(has_database(&postgres, "kept"));
    assert_eq!(postgres.url("kept"), url);
    eprintln!("first start {first:?}, stop {stop:?}, later start {later:?}");
}

#[test]
fn a_durable_cluster_keeps_its_data_over_owners() {
    let folder = folder();
    let options = PostgresOptions::new(folder.path().join("data"));
    let begin = Instant::now();
    let postgres = Postgres::start(options.clone()).unwrap();
    let first = begin.elapsed();
    postgres.create_database("kept", None).unwrap();
    drop(postgres);
    let begin = Instant::now();
    let postgres = Postgres::start(options).unwrap();
    let later = begin.elapsed();
    assert!(has_database(&postgres, "kept"));
    let begin = Instant::now();
    drop(postgres);
    eprintln!(
        "durable: first start {first:?}, later start {later:?}, stop {:?}",
        begin.elapsed()
    );
    let mode = fs::metadata(folder.path().join("data/cluster"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn two_folders_live_side_by_side() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|name| start(&folder.path().join(name)));
    assert_ne!(one.url("x"), two.url("x"));
    one.create_database("only_one", None).unwrap();
    assert!(has_database(&one, "only_one") && !has_database(&two, "only_one"));
}

#[test]
fn one_folder_has_one_owner() {
    let folder = folder();
    let owner = Owner::of("postgres", folder.path(), &[]);
    let error = Postgres::start(careless(folder.path())).err().unwrap();
    assert!(matches!(&error, ServersError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains("is already in use by pid "),
        "{error}"
    );
    assert!(is_alive(owner.server), "the first is not disturbed");
}

#[test]
fn a_long_path_is_no_obstacle() {
    let folder = folder();
    let deep = folder
        .path()
        .join("a".repeat(120))
        .join("with space, comma's & \"quotes\"")
        .join("b".repeat(90));
    let postgres = start(&deep);
    postgres.create_database("kept", None).unwrap();
}

#[test]
fn a_throwaway_leaves_nothing() {
    let begin = Instant::now();
    let postgres = Postgres::start_throwaway(20, Vec::new()).unwrap();
    let started = begin.elapsed();
    let (log, number) = (postgres.log(), postgres.pid());
    let mode = fs::metadata(log.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o777,
        0o700,
        "the server trusts whoever reaches its socket"
    );
    let begin = Instant::now();
    drop(postgres);
    eprintln!("throwaway: start {started:?}, stop {:?}", begin.elapsed());
    assert!(!log.parent().unwrap().exists() && !is_alive(number));
}

#[test]
fn the_url_works_for_programs_on_libpq() {
    let folder = folder();
    let settings = vec![("work_mem".to_owned(), "7MB".to_owned())];
    let postgres = Postgres::start(PostgresOptions {
        settings,
        ..careless(folder.path())
    })
    .unwrap();
    let psql = postgres.bin_dir().join("psql");
    if !psql.exists() {
        return;
    }
    let sql = "select current_user || current_setting('work_mem') || current_setting('fsync')";
    let said = Command::new(psql)
        .args(["-XAtc", sql, &postgres.url("postgres")])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "app7MBoff\n",
        "{said:?}"
    );
}

#[test]
fn database_names_are_plain_and_templates_exist() {
    let postgres = Postgres::start_throwaway(20, Vec::new()).unwrap();
    for name in ["", "a\"b", "a b", "a/b", &"x".repeat(64)] {
        let refused = postgres.create_database(name, None);
        assert!(
            matches!(refused, Err(ServersError::BadName { .. })),
            "{name}"
        );
    }
    postgres.create_database("template-1", None).unwrap();
    postgres
        .create_database("from_it", Some("template-1"))
        .unwrap();
    let error = postgres
        .create_database("y", Some("missing"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("template database \"missing\" does not exist"),
        "{error}"
    );
}

#[test]
fn a_start_that_fails_quotes_the_log() {
    let folder = folder();
    let settings = vec![("nonsense".to_owned(), "1".to_owned())];
    let error = Postgres::start(PostgresOptions {
        settings,
        ..careless(folder.path())
    })
    .err()
    .unwrap()
    .to_string();
    assert!(
        error.contains("unrecognized configuration parameter \"nonsense\""),
        "{error}"
    );
    drop(start(folder.path()));
}

#[test]
fn somebody_elses_folder_is_left_alone() {
    let folder = folder();
    fs::write(folder.path().join("thesis.tex"), "precious").unwrap();
    let error = Postgres::start(careless(folder.path())).err().unwrap();
    assert!(matches!(error, ServersError::NotOurs { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_bad_bin_folder_is_named_with_what_is_wrong() {
    let folder = folder();
    let start_with = |bin: &Path| {
        let bin = bin.to_str().unwrap();
        Owner::of(
            "postgres",
            &folder.path().join("data"),
            &[("CODELAB_PG_BIN", bin)],
        )
        .said
        .clone()
    };
    let said = start_with(&folder.path().join("missing"));
    assert!(
        said.contains("CODELAB_PG_BIN=")
            && said.contains("missing is not usable: it has no `postgres`"),
        "{said}"
    );

    for program in ["postgres", "initdb"] {
        let program = folder.path().join(program);
        fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 11.22'\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let said = start_with(folder.path());
    assert!(
        said.contains("version 11 is too old, 14 or newer is needed"),
        "{said}"
    );
}

#[test]
fn data_of_another_major_version_is_not_touched() {
    let folder = folder();
    drop(start(folder.path()));
    let version = folder.path().join("cluster/PG_VERSION");
    fs::write(&version, "9\n").unwrap();
    let error = Postgres::start(careless(folder.path())).err().unwrap();
    assert!(
        matches!(error, ServersError::WrongMajor { made_by: 9, .. }),
        "{error}"
    );
}

#[test]
fn root_in_a_private_folder_keeps_its_data_elsewhere() {
    if !Uid::effective().is_root() {
        return;
    }
    // As `/root/project`: nobody but root can search it.
    let private = folder();
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data = private.path().join("project/.codelab/postgres");
    let postgres = start(&data);
    postgres.create_database("kept", None).unwrap();
    drop(postgres);
    let pointer = fs::read_to_string(data.join("moved-to")).unwrap();
    let moved = Path::new(pointer.trim());
    assert!(moved.join("cluster/PG_VERSION").exists() && !data.join("cluster").exists());
    assert!(has_database(&start(&data), "kept"));

    // A copied checkout brings the pointer along, but does not share the data.
    let copy = private.path().join("copy");
    let copied = Command::new("cp")
        .arg("-r")
        .args([&data, &copy])
        .status()
        .unwrap();
    assert!(copied.success());
    assert!(!has_database(&start(&copy), "kept"));
    let other = fs::read_to_string(copy.join("moved-to")).unwrap();
    assert_ne!(other, pointer);
    fs::remove_dir_all(other.trim()).unwrap();
    fs::remove_dir_all(moved).unwrap();
}
